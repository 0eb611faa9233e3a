"""Work behind or ahead of the caller, in a thread, and how many threads PyTorch computes on."""

import ctypes
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_background(function: Callable[[Item], Result], items: Iterable[Item], size: int) -> Iterator[Result]:
    """
    `map(function, items)`, with the calls one after the other in a thread of their own, up to `size` ahead of the
    result that is taken; `items` stays with the caller. An error of a call is raised in the place of its result.

    When the iterator is closed, by hand or by an error, calls that have not begun are dropped, and it returns after
    the one that has; use `contextlib.closing` where the function works on what is closed next.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="salfom")
    calls: deque[Future[Result]] = deque()
    try:
        for item in items:
            calls.append(thread.submit(function, item))
            if len(calls) > size:
                yield calls.popleft().result()
        while calls:
            yield calls.popleft().result()
    finally:
        thread.shutdown(cancel_futures=True)


def pytorch_function(name: str) -> Callable[[int], int]:
    """A function of the C libraries that PyTorch computes with; one that does nothing where there is none."""
    try:
        return getattr(ctypes.CDLL("libtorch_cpu.so"), name)  # Loaded by now, and found by its name wherever it lies.
    except (AttributeError, OSError):
        return lambda _: 0


# For the calling thread alone: `torch.set_num_threads` sets the number of threads that start later, too.
set_openmp_threads = pytorch_function("omp_set_num_threads")

set_mkl_threads = pytorch_function("MKL_Set_Num_Threads_Local")


@contextmanager
def pytorch_threads(count: int) -> Iterator[None]:
    """
    Let PyTorch compute on `count` threads where this thread calls it, and as before thereafter. On other systems than
    Linux nothing changes: what runs side by side shares all threads.
    """
    # A thread takes its number with its first look at it, which would come too late.
    before = torch.get_num_threads()
    set_openmp_threads(count)
    before_mkl = set_mkl_threads(count)
    try:
        yield
    finally:
        set_openmp_threads(before)
        set_mkl_threads(before_mkl)


__all__ = ["in_background", "pytorch_threads"]
