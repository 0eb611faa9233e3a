"""How the processes of a run keep together when one of them fails."""

from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object


class OtherProcessError(Exception):
    """Another process of the run has failed. Where its own message says why, this one is empty."""


LOST = "Another process of this run has ended unexpectedly; go on with --resume."


def lost_connection(error: RuntimeError) -> bool:
    """Whether it tells that another process is gone; torch has no type of its own for that."""
    return "Connection closed by peer" in str(error) or "Connection reset by peer" in str(error)


@contextmanager
def all_or_none(accelerator: Accelerator | PartialState) -> Iterator[None]:
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
    try:
        failed = gather_object([failure is not None])
    except RuntimeError as error:  # Killed, it cannot even say that it failed.
        if lost_connection(error):
            raise OtherProcessError(LOST) from error
        raise
    if any(failed):
        if failure is not None and failed.index(True) == accelerator.process_index:
            raise failure
        raise OtherProcessError from failure


__all__ = ["LOST", "OtherProcessError", "all_or_none", "lost_connection"]
