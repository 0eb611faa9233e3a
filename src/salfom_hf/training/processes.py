"""How the processes of a run keep together when one of them fails."""

from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import Accelerator
from accelerate.utils import gather_object


class OtherProcessError(Exception):
    """Another process of the run has failed; its own message says why."""


@contextmanager
def all_or_none(accelerator: Accelerator) -> Iterator[None]:
    """
    A block that fails in all processes when it fails in one, so that none waits for a process that has given up.

    Raises:
        OtherProcessError: it failed in another process, the first of which raises its own error.
    """
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    failed = gather_object([failure is not None])
    if any(failed):
        if failure is not None and failed.index(True) == accelerator.process_index:
            raise failure
        raise OtherProcessError from failure


__all__ = ["OtherProcessError", "all_or_none"]
