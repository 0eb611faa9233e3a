"""The processes of one run: how they connect, share the cores of a machine, count together, and fail together."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

import psutil
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather_object, get_int_from_env, parse_flag_from_env
from torch import distributed

from .cpu import allowed_cores

LOST = "Another process of this run has ended unexpectedly; go on with --resume."

# Until a process that waits takes the others for lost though they are still connected: some videos take days.
PATIENCE = timedelta(days=20)


class OtherProcessError(Exception):
    """Another process of the run has failed. Where its own message says why, this one is empty."""


def lost_connection(error: RuntimeError) -> bool:
    """Whether it tells that another process is gone; torch has no type of its own for that."""
    return "Connection closed by peer" in str(error) or "Connection reset by peer" in str(error)


@contextmanager
def all_or_none(state: Accelerator | PartialState) -> Iterator[None]:
    """
    A block that fails in all processes when it fails in one, so that none waits for a process that has given up. The
    first of those where it failed raises its own error, and all others an [`OtherProcessError`].
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
        if failure is not None and failed.index(True) == state.process_index:
            raise failure
        raise OtherProcessError from failure


def connect(device: str | None) -> PartialState:
    """Connect with the other processes of the run, if there are any; `device` is the one asked for, if any."""
    launched = get_int_from_env(["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"], 1) > 1
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    kind = "cpu" if found is None else found.type
    # accelerate itself would not connect processes that find no accelerator, or Apple's.
    cpu = "cpu" in (kind, device) or parse_flag_from_env("ACCELERATE_USE_CPU") or (launched and kind == "mps")
    # Nothing but small Python objects goes from process to process, and with gloo the end of one is noticed by all.
    return PartialState(cpu=cpu, **({"backend": "gloo", "timeout": PATIENCE} if launched else {}))


def share_cores(threads: int | None) -> None:
    """Set PyTorch's threads: so many, or, unless `OMP_NUM_THREADS` says otherwise, a process's share of the cores."""
    on_machine = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if threads or (on_machine > 1 and os.environ.get("OMP_NUM_THREADS", "1") == "1"):  # To which launchers set it.
        cores = min(psutil.cpu_count(logical=False) or allowed_cores(), allowed_cores())
        torch.set_num_threads(threads or max(1, cores // on_machine))


def shared_store(state: PartialState) -> distributed.Store:
    """Numbers that all processes of a run count in; the main process keeps them."""
    if state.num_processes == 1:
        return distributed.HashStore()
    connect_to = partial(distributed.TCPStore, os.environ["MASTER_ADDR"], wait_for_workers=False)
    store = connect_to(0, is_master=True) if state.is_main_process else None
    (port,) = broadcast_object_list([store and store.port])
    return store or connect_to(port, is_master=False)
