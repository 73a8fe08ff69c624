"""Connections are handed out in turn: nobody is passed over, nothing gets lost."""

from __future__ import annotations

import threading
from queue import Empty, Full

import pytest
from harness import at_once
from processes.client import wait_until

from flask_sessionstatus.stores.redis.fair import FairQueue, Waiter


def wait_in_line(queue: FairQueue, name: str, got: list[tuple[str, object]]) -> threading.Thread:
    """Somebody who waits, behind those who wait already."""
    before = len(queue._waiters)
    thread = threading.Thread(target=lambda: got.append((name, queue.get(timeout=5))))
    thread.start()
    wait_until(lambda: len(queue._waiters) > before, 5, "a turn")
    return thread


def test_the_last_in_is_the_first_out_while_nobody_waits() -> None:
    queue = FairQueue(3)
    for item in "abc":
        queue.put_nowait(item)
    with pytest.raises(Full):
        queue.put_nowait("d")
    assert [queue.get(timeout=1) for _ in range(3)] == ["c", "b", "a"]
    with pytest.raises(Empty):
        queue.get(block=False)


def test_who_came_first_is_served_first_however_quick_others_are() -> None:
    queue, got = FairQueue(1), []
    line = [wait_in_line(queue, name, got) for name in "abc"]
    for item in range(3):
        queue.put_nowait(item)
        with pytest.raises(Empty):
            queue.get(block=False)
        line[item].join(5)
    assert got == [("a", 0), ("b", 1), ("c", 2)]


def test_who_waits_too_long_leaves_the_line() -> None:
    queue, got = FairQueue(1), []
    with pytest.raises(Empty):
        queue.get(timeout=0.01)
    thread = wait_in_line(queue, "later", got)
    queue.put_nowait("item")
    thread.join(5)
    assert got == [("later", "item")]
    queue.put_nowait("item")
    assert queue.get(timeout=1) == "item"


@pytest.mark.parametrize("given", [True, False])
def test_what_was_meant_for_somebody_who_was_killed_is_not_lost(monkeypatch: pytest.MonkeyPatch, given: bool) -> None:
    queue = FairQueue(1)

    def killed(turn: Waiter, timeout: float | None) -> bool:
        if given:
            queue.put_nowait("item")
        raise GeneratorExit

    monkeypatch.setattr(Waiter, "wait", killed)
    with pytest.raises(GeneratorExit):
        queue.get(timeout=5)
    monkeypatch.undo()
    if not given:
        queue.put_nowait("item")
    assert queue.get(timeout=1) == "item"


def test_what_comes_when_time_is_up_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = FairQueue(1)

    def late(turn: Waiter, timeout: float | None) -> bool:
        queue.put_nowait("item")
        return False

    monkeypatch.setattr(Waiter, "wait", late)
    assert queue.get(timeout=0) == "item"


def test_in_a_crowd_everybody_is_served_and_nothing_is_lost() -> None:
    queue = FairQueue(4)
    for item in range(4):
        queue.put_nowait(item)

    def use() -> int:
        for _ in range(300):
            queue.put_nowait(queue.get(timeout=5))
        return 300

    assert at_once(*[use] * 32) == [300] * 32
    assert sorted(queue.get(block=False) for _ in range(4)) == [0, 1, 2, 3]
