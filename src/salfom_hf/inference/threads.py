"""Work behind or ahead of the caller, in threads."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from itertools import repeat
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_background(
    function: Callable[[Item], Result], items: Iterable[Item], size: int, threads: int = 1
) -> Generator[Result]:
    """
    `map(function, items)`, with the calls in a thread of their own, or in several, up to `size` ahead of the result
    that is taken; `items` stays with the caller. An error of a call is raised in the place of its result.

    When the iterator is closed, by hand or by an error, calls that have not begun are dropped, and it returns after
    those that have; use `contextlib.closing` where the function works on what is closed next.
    """

    def result_of(call: Future[Result]) -> Result:
        while not call.done():
            wait([call], 0.1)  # On Windows, Ctrl-C does not interrupt a wait without an end.
        return call.result()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="salfom")
    calls: deque[Future[Result]] = deque()
    try:
        for item in items:
            calls.append(pool.submit(function, item))
            if len(calls) > size:
                yield result_of(calls.popleft())
        while calls:
            yield result_of(calls.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def ahead(items: Iterable[Item], size: int) -> Generator[Item]:
    """
    The items, made in a thread of their own, up to `size` ahead of the one that is taken; none waits for the next.
    Errors and closing as in [`in_background`].
    """
    iterator, end = iter(items), object()
    with closing(in_background(lambda _: next(iterator, end), repeat(None), size)) as made:
        for item in made:
            if item is end:
                return
            yield item  # type: ignore[misc]  # What is not the end is an item.
