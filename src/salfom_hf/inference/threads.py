"""Work behind or ahead of the caller, in a thread."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")

Result = TypeVar("Result")


class Call(Generic[Item, Result]):
    """A call to be made once, by whichever thread comes first."""

    def __init__(self, item: Item):
        self.item, self.future = item, Future[Result]()
        self.begun = threading.Lock()

    def make(self, function: Callable[[Item], Result]) -> None:
        if not self.begun.acquire(blocking=False):
            return
        item, self.item = self.item, None  # Not held longer than needed.
        try:
            result = function(item)
        except BaseException as error:
            self.future.set_exception(error)
            if not isinstance(error, Exception):  # Ctrl-C in the caller, who helps, ends it now.
                raise
        else:
            self.future.set_result(result)


def in_background(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    size: int,
    helper: Callable[[Item], Result] | None = None,
) -> Iterator[Result]:
    """
    `map(function, items)`, with the calls one after the other in a thread of their own; `items` stays with the caller.
    What the function does runs beside what the caller does wherever it lets go of the interpreter, as decoding,
    encoding, and large operations of NumPy and PyTorch do.

    Args:
        size: how many calls may be ahead of the result that is taken.
        helper: gives the same as the function; with it the caller makes calls that have not begun, wherever it would
            wait for the thread.

    Yields:
        The results, in order. The first error of a call is raised in the place of its result.

    When the iterator is closed, by hand or by an error, calls that have not begun are dropped, and it returns after
    the one that has; use `contextlib.closing` where the function works on what is closed next.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="salfom")
    calls: deque[Call[Item, Result]] = deque()

    def first_result() -> Result:
        if helper is not None:
            for call in calls:
                if calls[0].future.done():
                    break
                call.make(helper)
        return calls.popleft().future.result()

    try:
        for item in items:
            calls.append(Call(item))
            thread.submit(calls[-1].make, function)
            if len(calls) > size:
                yield first_result()
        while calls:
            yield first_result()
    finally:
        thread.shutdown(cancel_futures=True)


__all__ = ["in_background"]
