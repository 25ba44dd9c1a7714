"""Reading ahead, running and finishing behind: order, failures, and what is held at once."""

import threading
import time
import weakref

import pytest

from evaluation.overlap import overlapped

PATIENCE = 20  # seconds; only a test that fails waits so long


def never(_item):
    return False


def test_results_come_in_order_from_three_threads():
    threads = {"read": set(), "run": set(), "finish": set()}

    def step(name, function):
        def call(value):
            threads[name].add(threading.get_ident())
            time.sleep(0.001 * (value % 3))
            return function(value)

        return call

    steps = (step("read", lambda i: 10 * i), step("run", lambda i: i + 1), step("finish", lambda i: -i))
    done = []
    assert overlapped(range(2, 9, 2), *steps, never, lambda: done.append(1)) == [-21, -41, -61, -81]
    assert len(done) == 4
    assert threads["run"] == {threading.get_ident()}
    assert [len(idents) for idents in threads.values()] == [1, 1, 1]
    assert not threads["read"] & threads["run"] | threads["finish"] & threads["run"]
    assert overlapped([], *steps, never) == []


def test_the_next_is_read_and_the_one_before_is_finished_while_one_runs():
    reading, finishing = [threading.Event() for _ in range(4)], [threading.Event() for _ in range(4)]

    def read(index):
        reading[index].set()
        return index

    def run(index):
        assert index == 3 or reading[index + 1].wait(PATIENCE)
        assert index == 0 or finishing[index - 1].wait(PATIENCE)
        return index

    def finish(index):
        finishing[index].set()
        return index

    assert overlapped(range(4), read, run, finish, never) == [0, 1, 2, 3]


def test_no_more_than_one_is_read_ahead_and_none_is_held_when_finished():
    class Item:
        pass

    alive, most, finished = weakref.WeakSet(), [], []

    def read(_index):
        item = Item()
        alive.add(item)
        return item

    def run(item):
        most.append(len(alive))
        return item

    overlapped(range(12), read, run, lambda item: finished.append(1), never)
    assert max(most) <= 3
    assert len(alive) == 0


def test_what_is_large_is_finished_before_the_next_one_runs():
    events = []

    def run(index):
        events.append(f"run {index}")
        return index

    def finish(index):
        time.sleep(0.02)
        events.append(f"finished {index}")

    overlapped(range(3), lambda index: index, run, finish, lambda index: True)
    assert events == [f"{step} {index}" for index in range(3) for step in ("run", "finished")]


@pytest.mark.parametrize(
    ("failing", "first"),
    [
        ({("finish", 1), ("run", 2), ("read", 3)}, "finish 1"),
        ({("run", 1), ("read", 2)}, "run 1"),
        ({("finish", 0), ("read", 1)}, "finish 0"),
        ({("read", 1)}, "read 1"),
        ({("finish", 3)}, "finish 3"),
    ],
)
def test_of_several_failures_that_of_the_first_item_is_raised(failing, first):
    def step(name):
        def call(index):
            if name == "finish":
                time.sleep(0.01)  # so that the steps after it fail earlier by the clock
            if (name, index) in failing:
                raise ValueError(f"{name} {index}")
            return index

        return call

    with pytest.raises(ValueError, match=first):
        overlapped(range(4), step("read"), step("run"), step("finish"), never)


def test_an_interrupt_ends_it_with_its_threads():
    before = threading.active_count()

    def run(index):
        if index == 2:
            raise KeyboardInterrupt
        return index

    with pytest.raises(KeyboardInterrupt):
        overlapped(range(9), lambda index: index, run, lambda index: time.sleep(0.01), never)
    assert threading.active_count() == before
