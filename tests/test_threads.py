"""Calls in a thread: order, bounds, errors, and an end at any time."""

import itertools
import threading
import time

import pytest

from salfom_hf.inference.threads import ahead, in_background


def threads():
    return sorted(thread.name for thread in threading.enumerate())


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = threads()
    yield
    assert threads() == before


def test_results_come_in_order_from_one_other_thread():
    seen = []

    def square(number):
        seen.append(threading.get_ident())
        time.sleep(0.001 * (number % 3))
        return number * number

    assert list(in_background(square, range(50), 4)) == [number * number for number in range(50)]
    assert len(set(seen)) == 1
    assert seen[0] != threading.get_ident()


def test_caller_and_thread_work_at_the_same_time():
    """Each call returns only once the item after it was asked for."""
    asked = [threading.Event() for _ in range(6)]

    def items():
        for number in range(5):
            asked[number].set()
            yield number
        asked[5].set()

    assert all(in_background(lambda number: asked[number + 1].wait(20), items(), 1))


@pytest.mark.parametrize("size", [1, 3])
def test_no_more_calls_than_asked_for_are_ahead(size):
    taken = 0

    def items():
        nonlocal taken
        while True:
            taken += 1
            yield taken

    results = in_background(lambda item: item, items(), size)
    assert taken == 0
    for given in range(1, 30):
        assert next(results) == given
        assert taken <= given + size
    results.close()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_of_a_call_comes_in_its_place(error):
    def fail(number):
        if number == 5:
            raise error("five")
        return number

    results = in_background(fail, itertools.count(), 3)
    assert list(itertools.islice(results, 5)) == [0, 1, 2, 3, 4]
    with pytest.raises(error, match="five"):
        next(results)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, None])
def test_the_thread_ends_after_the_call_that_has_begun(error):
    """By an error of the items, and when it is closed."""
    begun, ended = [], []

    def work(number):
        begun.append(number)
        time.sleep(0.03)
        ended.append(number)

    def items():
        yield from range(8)
        raise error("stop")

    if error is None:
        results = in_background(work, itertools.count(), 7)
        next(results)
        results.close()
    else:
        with pytest.raises(error, match="stop"):
            list(in_background(work, items(), 8))
    done = len(begun)
    assert begun == ended
    time.sleep(0.06)
    assert len(begun) == done < 8


def test_items_are_made_ahead_in_order_by_one_other_thread():
    makers, taken = set(), 0

    def items():
        for number in range(20):
            makers.add(threading.get_ident())
            yield number
            assert number <= taken + 3

    for number in ahead(items(), 3):
        assert number == taken
        taken += 1
    assert taken == 20
    assert len(makers) == 1
    assert makers != {threading.get_ident()}


def test_an_item_does_not_wait_for_the_next():
    given = threading.Event()

    def items():
        yield "first"
        assert given.wait(20)
        yield "second"

    made = ahead(items(), 1)
    assert next(made) == "first"
    given.set()
    assert list(made) == ["second"]


def test_an_error_of_the_items_comes_in_its_place():
    def items():
        yield from range(3)
        raise ValueError("three")

    made = ahead(items(), 2)
    assert [next(made), next(made), next(made)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(made)


def test_no_item_is_made_after_closing():
    seen = []
    made = ahead((seen.append(number) or number for number in itertools.count()), 4)
    next(made)
    made.close()
    count = len(seen)
    time.sleep(0.05)
    assert len(seen) == count <= 6
