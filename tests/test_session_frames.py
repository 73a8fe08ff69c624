"""What a socket gets of a session: every event of every task once, in the order of their cursors."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import LEASE_MS, Clock, Job, Kind, a_session, a_task, begin
from hosts import frames as sse_frames

from flask_sessionstatus.models import ORIGIN, Cursor
from flask_sessionstatus.stores.base import Limits, Store
from flask_sessionstatus.streaming import follower, hub
from flask_sessionstatus.streaming.follower import Follower
from flask_sessionstatus.streaming.frames import JSON_FRAMES, WIRES
from flask_sessionstatus.streaming.hub import Hub
from flask_sessionstatus.streaming.session import Outcome, SessionFrames

WAIT = 10.0


@pytest.fixture(params=["memory", "redis"])
def kind(request: pytest.FixtureRequest, redis_url: Callable[[str], str]) -> Iterator[Kind]:
    kind = Kind(request.param, None if request.param == "memory" else redis_url("newest"))
    yield kind
    kind.close()


@pytest.fixture
def the_hub(store: Store) -> Iterator[Hub]:
    hub = Hub(store, 100)
    yield hub
    hub.close()


class Socket:
    """Reads the frames of session `s1` in a thread."""

    def __init__(self, hub: Hub, after: Cursor = ORIGIN, **options: Any) -> None:
        assert hub.take_place()
        self.each = SessionFrames(hub, "c1", "s1", after, JSON_FRAMES, **options)
        self.frames: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._hub = hub
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for lines in self.each:
            with self._changed:
                self.frames += [json.loads(line) for line in lines.splitlines()]
                self._changed.notify_all()
        self._hub.give_place_back()

    def until(self, check: Callable[[list[dict[str, Any]]], Any]) -> list[dict[str, Any]]:
        """The frames without those of status, once the check on them is true."""
        with self._changed:
            assert self._changed.wait_for(lambda: check(self.shown), WAIT), self.frames
            return self.shown

    def until_waiting(self) -> None:
        """Until it has nothing to give and waits for a next task."""
        signal = self.each._signal
        while signal is None or self.each._task is not None or not signal.woken._waiters:  # type: ignore[attr-defined]
            threading.Event().wait(0.001)
            signal = self.each._signal

    @property
    def shown(self) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["type"] != "status"]

    @property
    def cursors(self) -> list[Cursor]:
        return [Cursor.parse(frame["cursor"]) for frame in self.shown if frame["cursor"] is not None]

    def ended(self) -> Outcome | None:
        self._thread.join(WAIT)
        assert not self._thread.is_alive()
        assert self._hub.followers == 0
        return self.each.outcome

    def stop(self) -> None:
        self.each.stop()
        assert self.ended() is Outcome.STOPPED


def places(*jobs: tuple[Job, int, int]) -> list[Cursor]:
    """The cursors of the events from a number to a number of each job's attempt."""
    return [Cursor(job.epoch, number) for job, first, last in jobs for number in range(first, last + 1)]


def ends(frames: list[dict[str, Any]]) -> list[str]:
    return [frame["data"]["state"] for frame in frames if frame["type"] == "end"]


def task(store: Store, name: str, *texts: str, end: bool = True, **fields: Any) -> Job:
    job = begin(store, task=a_task(name, **fields))
    job.append(texts)
    if end:
        job.end()
    return job


def test_one_socket_gets_task_after_task_from_its_first_event(store: Store, the_hub: Hub, clock: Clock) -> None:
    store.create_session(a_session())
    socket = Socket(the_hub)
    socket.until_waiting()
    jobs = []
    for n in range(3):
        clock.move(5)
        jobs.append(task(store, f"t{n}", "a", "b", end=False))
        if n == 1:
            socket.until(lambda frames, job=jobs[1]: f"{job.epoch}-2" in [frame["cursor"] for frame in frames])
        jobs[n].end()
        socket.until(lambda frames, n=n: len(ends(frames)) == n + 1)
    assert socket.cursors == places(*((job, 1, 3) for job in jobs))
    socket.stop()


def test_a_lost_announcement_costs_a_tick_and_no_event(
    store: Store, the_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "TICK", 0.05)
    monkeypatch.setattr(hub, "BROKEN_TICK", 0.05)
    monkeypatch.setattr(the_hub, "_on_wakeup", lambda *_: None)
    store.create_session(a_session())
    socket = Socket(the_hub)
    socket.until_waiting()
    job = task(store, "t1", "a")
    socket.until(lambda frames: len(frames) == 2)
    assert socket.cursors == places((job, 1, 2))
    socket.stop()


def test_tasks_that_run_side_by_side_come_one_after_the_other(store: Store, the_hub: Hub, clock: Clock) -> None:
    first = task(store, "t1", "a", end=False)
    clock.move(1)
    second = task(store, "t2", "x", "y")
    socket = Socket(the_hub)
    socket.until(len)
    first.append(["b"])
    first.end()
    socket.until(lambda frames: len(ends(frames)) == 2)
    assert socket.cursors == places((first, 1, 3), (second, 1, 3))
    socket.stop()


@pytest.mark.parametrize("followed", [False, True], ids=["afterwards", "meanwhile"])
def test_a_retry_comes_after_the_tasks_that_began_before_it(
    store: Store, the_hub: Hub, clock: Clock, followed: bool
) -> None:
    first = task(store, "t1", "a", "b", end=False)
    socket = Socket(the_hub) if followed else None
    if socket is not None:
        socket.until(lambda frames: len(frames) == 2)
    clock.move(1)
    between = task(store, "t2", "x")
    clock.move(1)
    second = first.retry()
    second.append(["c"])
    clock.move(1)
    later = task(store, "t3", "y")
    third = second.retry("third")
    third.end()
    socket = socket or Socket(the_hub)
    socket.until(lambda frames: len(ends(frames)) == 3)
    expected = places((first, 1, 2), (between, 1, 2), (second, 1, 2), (later, 1, 2), (third, 1, 2))
    assert socket.cursors == expected == sorted(expected)
    socket.stop()


def test_every_cursor_resumes_the_rest_exactly(store: Store, the_hub: Hub, clock: Clock) -> None:
    first = task(store, "t1", "a", "b", end=False)
    clock.move(1)
    between = task(store, "t2", "x")
    clock.move(1)
    second = first.retry()
    second.append(["c"])
    second.end()
    expected = places((first, 1, 2), (between, 1, 2), (second, 1, 3))
    for seen, after in enumerate([ORIGIN, *expected[:-1]]):
        socket = Socket(the_hub, after)
        socket.until(lambda frames, seen=seen: len(frames) == len(expected) - seen)
        socket.until_waiting()
        assert socket.cursors == expected[seen:]
        socket.stop()


def test_with_the_last_cursor_there_is_nothing_but_what_comes_next(store: Store, the_hub: Hub, clock: Clock) -> None:
    first = task(store, "t1", "a")
    socket = Socket(the_hub, Cursor(first.epoch, 2))
    socket.until_waiting()
    clock.move(1)
    second = task(store, "t2", "b")
    socket.until(lambda frames: len(frames) == 2)
    assert socket.cursors == places((second, 1, 2))
    socket.stop()


def test_hundreds_of_tasks_after_a_cursor_all_come(store: Store, the_hub: Hub, clock: Clock) -> None:
    jobs = []
    for n in range(150):
        jobs.append(task(store, f"t{n}"))
        clock.move(1)
    socket = Socket(the_hub, Cursor(jobs[20].epoch, 1))
    socket.until(lambda frames: len(frames) == 129)
    assert socket.cursors == [Cursor(job.epoch, 1) for job in jobs[21:]]
    socket.stop()


def test_waiting_reads_the_latest_tasks_only(store: Store, the_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(30):
        last = task(store, f"t{n}")
    asked: list[int] = []
    tasks = store.tasks
    monkeypatch.setattr(store, "tasks", lambda session_id, limit: asked.append(limit) or tasks(session_id, limit))
    socket = Socket(the_hub, Cursor(last.epoch, 1))
    socket.until_waiting()
    assert set(asked) == {2}
    socket.stop()


@pytest.mark.parametrize("texts", [[], ["a"]], ids=["silent", "emitted"])
def test_a_lost_task_ends_once_and_goes_on_when_it_returns(
    store: Store, the_hub: Hub, clock: Clock, monkeypatch: pytest.MonkeyPatch, texts: list[str]
) -> None:
    monkeypatch.setattr(hub, "TICK", 0.05)
    job = task(store, "t1", *texts, end=False)
    clock.move(LEASE_MS)
    socket = Socket(the_hub)
    socket.until(ends)
    for _ in range(3):
        socket.until_waiting()
    job.append(["b"])
    job.end()
    shown = socket.until(lambda frames: len(ends(frames)) == 2)
    assert ends(shown) == ["lost", "completed"]
    assert [frame["data"]["text"] for frame in shown if frame["type"] == "token"] == [*texts, "b"]
    socket.stop()


def test_a_lost_task_does_not_keep_the_next_one_waiting(store: Store, the_hub: Hub, clock: Clock) -> None:
    lost = task(store, "t1", "a", end=False)
    clock.move(LEASE_MS)
    socket = Socket(the_hub)
    socket.until(ends)
    following = task(store, "t2", "b")
    shown = socket.until(lambda frames: len(ends(frames)) == 2)
    assert ends(shown) == ["lost", "completed"]
    assert socket.cursors == [*places((lost, 1, 1)), Cursor(lost.epoch, 1), *places((following, 1, 2))]
    socket.stop()


def test_what_a_lost_tasks_log_has_lost_does_not_end_it_again_and_again(redis_kind: Kind) -> None:
    store = redis_kind.make()
    each = Hub(store, 10)
    job = task(store, "t1", "a", "b", end=False)
    assert redis_kind.client is not None
    redis_kind.client.delete("sessionstatus:{c1}:task:t1:events")
    redis_kind.clock.move(LEASE_MS)
    socket = Socket(each, Cursor(job.epoch, 1))
    socket.until(ends)
    for _ in range(3):
        socket.until_waiting()
    assert ends(socket.shown) == ["lost"]
    socket.stop()
    each.close()


def test_a_gone_cursor_is_told_with_the_first_event_that_comes(store: Store, the_hub: Hub) -> None:
    job = task(store, "t1", "a")
    socket = Socket(the_hub, gone=Cursor(5, 7))
    shown = socket.until(ends)
    told = {"requested": "5-7", "firstAvailable": f"{job.epoch}-1"}
    assert shown[0] == {"cursor": None, "type": "gap", "data": told}
    assert socket.cursors == places((job, 1, 2))
    socket.stop()


@pytest.mark.parametrize("running", [False, True], ids=["waiting", "following"])
def test_a_deleted_session_ends_with_one_end_frame(store: Store, the_hub: Hub, running: bool) -> None:
    job = task(store, "t1", "a", end=not running)
    socket = Socket(the_hub)
    socket.until(lambda frames: len(frames) == (1 if running else 2))
    if not running:
        socket.until_waiting()
    store.delete_session("s1")
    assert socket.ended() is Outcome.OVER
    last = socket.shown[-1]
    assert last["type"] == "end"
    assert last["data"] == {
        "state": "cancelled",
        "errorType": "SessionDeleted",
        "errorMessage": "The session is no longer there.",
        "taskId": "t1" if running else None,
    }
    assert len(ends(socket.shown)) == (1 if running else 2)
    assert Cursor.parse(last["cursor"]).epoch == job.epoch


def test_an_expired_session_ends_at_the_next_tick(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "TICK", 0.05)
    store = kind.make(Limits())
    each = Hub(store, 10)
    store.create_session(a_session())
    socket = Socket(each)
    socket.until_waiting()
    kind.clock.move(Limits().session_ttl)
    assert socket.ended() is Outcome.OVER
    assert [frame["type"] for frame in socket.shown] == ["end"]
    each.close()


@pytest.mark.parametrize("running", [False, True], ids=["waiting", "following"])
def test_a_closed_hub_and_a_refused_client_break_off_without_a_frame(
    store: Store, running: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "ACCESS_INTERVAL", 0.05)
    monkeypatch.setattr(hub, "TICK", 0.05)
    each_hub = Hub(store, 10)
    task(store, "t1", "a", end=not running)
    allowed = threading.Event()
    allowed.set()
    socket, other = Socket(each_hub), Socket(each_hub, allowed=allowed.is_set)
    for each in (socket, other):
        each.until(lambda frames: len(frames) == (1 if running else 2))
    allowed.clear()
    other._thread.join(WAIT)
    assert other.each.outcome is Outcome.REFUSED
    each_hub.close()
    assert socket.ended() is Outcome.CLOSING
    assert len(socket.shown) == len(other.shown) == (1 if running else 2)


def test_it_gives_what_server_sent_events_give(store: Store, the_hub: Hub) -> None:
    job = begin(store, task=a_task("t1"))
    socket = Socket(the_hub)
    channel = the_hub.enter(job.ref)
    assert channel is not None
    each = Follower(the_hub, channel, ORIGIN, WIRES["sse"])
    job.append(["a", "naïve\u2028ключ\n"])
    job.end()
    shown = socket.until(lambda frames: len(ends(frames)) == 1)
    sent = [frame for frame in sse_frames(b"".join(each)) if frame["event"] != "status"]
    assert [(frame["cursor"], frame["type"], frame["data"]) for frame in shown] == [
        (frame["id"], frame["event"], frame["data"]) for frame in sent
    ]
    each.close()
    socket.stop()


def test_a_trimmed_head_is_a_gap(kind: Kind) -> None:
    store = kind.make(Limits(max_events=3))
    job = task(store, "t1", *"abcdefgh")
    each = Hub(store, 10)
    socket = Socket(each)
    shown = socket.until(lambda frames: len(ends(frames)) == 1)
    gap, *_ = shown
    assert (gap["cursor"], gap["type"], gap["data"]["requested"]) == (None, "gap", "0-0")
    first = Cursor.parse(gap["data"]["firstAvailable"])
    assert socket.cursors == places((job, first.number, 9))
    socket.stop()
    each.close()


def test_sockets_are_bounded_as_followers_are(store: Store) -> None:
    small = Hub(store, 1)
    store.create_session(a_session())
    socket = Socket(small)
    assert not small.take_place()
    socket.stop()
    assert small.take_place()
    small.close()
