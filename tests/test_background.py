"""Calls in a thread: order, bounds, errors, and an end at any time."""

import itertools
import threading
import time

import pytest

from salfom_hf.inference.threads import in_background


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


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_of_the_items_ends_the_thread_after_the_call_that_has_begun(error):
    begun, ended = [], []

    def work(number):
        begun.append(number)
        time.sleep(0.05)
        ended.append(number)

    def items():
        yield from range(3)
        raise error("stop")

    with pytest.raises(error, match="stop"):
        list(in_background(work, items(), 8))
    done = len(begun)
    assert begun == ended
    time.sleep(0.1)
    assert len(begun) == done < 3


def test_closing_drops_what_has_not_begun():
    calls = []
    results = in_background(lambda number: (calls.append(number), time.sleep(0.02)), itertools.count(), 10)
    next(results)
    results.close()
    done = len(calls)
    time.sleep(0.1)
    assert len(calls) == done < 10


def test_a_caller_who_would_wait_helps():
    """The thread hangs in the first call until the caller has made all others that may be ahead."""
    made, begun, helped = [], threading.Event(), threading.Event()

    def items():
        yield 0
        assert begun.wait(20)
        yield from range(1, 4)

    def work(number):
        made.append((number, "thread"))
        begun.set()
        assert helped.wait(20)
        return number

    def help_out(number):
        made.append((number, "caller"))
        if len(made) == 4:
            helped.set()
        return number

    assert list(in_background(work, items(), 3, helper=help_out)) == [0, 1, 2, 3]
    assert sorted(number for number, _ in made) == [0, 1, 2, 3]
    assert [who for _, who in made].count("caller") == 3


def test_a_caller_does_not_help_where_the_thread_is_fast_enough():
    done = [threading.Event() for _ in range(5)]

    def work(number):
        done[number].set()

    def items():
        yield from range(4)
        assert all(event.wait(20) for event in done[:4])
        time.sleep(0.1)
        yield 4

    results = in_background(work, items(), 4, helper=lambda number: pytest.fail("nothing to wait for"))
    next(results)
    assert done[4].wait(20)
    assert list(results) == [None] * 4


def test_an_error_of_a_helper_comes_in_its_place():
    begun, gate = threading.Event(), threading.Event()

    def fail(number):
        gate.set()
        raise ValueError(f"helper {number}")

    def items():
        yield 0
        assert begun.wait(20)  # The thread has call 0, and holds it until the caller fails in another.
        yield from range(1, 4)

    def work(number):
        begun.set()
        assert gate.wait(20)
        return number

    results = in_background(work, items(), 3, helper=fail)
    assert next(results) == 0
    with pytest.raises(ValueError, match="helper 1"):
        next(results)


def test_an_interrupt_of_a_helping_caller_ends_it_at_once():
    gate, helped = threading.Event(), []

    def interrupted(number):
        helped.append(number)
        gate.set()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(in_background(lambda number: gate.wait(20), range(4), 3, helper=interrupted))
    assert len(helped) == 1
