from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from harness import LEASE_MS, Clock, Job, Kind, a_session, a_task, begin, heal

from flask_sessionstatus import StoreUnavailable
from flask_sessionstatus.models import ORIGIN, Cursor, Event, Progress, Task
from flask_sessionstatus.stores.base import Limits, Page, Wakeups
from flask_sessionstatus.stores.memory import MemoryStore
from flask_sessionstatus.stores.redis.wakeups import RedisWakeups
from flask_sessionstatus.streaming.follower import Ended, Follower, Gap, Item, Permission, Reader, TaskFrames
from flask_sessionstatus.streaming.frames import WIRES, JsonFrames
from flask_sessionstatus.streaming.hub import BROKEN_TICK, TICK, Channel, Hub
from flask_sessionstatus.streaming.shedding import PER_SECOND

SSE, AI_SDK = WIRES["sse"], WIRES["ai-sdk"]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(Limits(max_events=1000), clock=clock)


@pytest.fixture
def hub(store: MemoryStore) -> Hub:
    return Hub(store, 20)


def enter(hub: Hub, job: Job) -> Channel:
    channel = hub.enter(job.ref)
    assert channel is not None
    return channel


def reader(hub: Hub, job: Job, clock: Clock, after: Cursor = ORIGIN) -> Callable[[], list[Item] | None]:
    """What a follower gets with each look."""
    channel = enter(hub, job)
    each = Reader(hub, channel, after, clock.monotonic)

    def look() -> list[Item] | None:
        step = each.step(channel.version)
        return None if step is None else list(step.items)

    return look


def numbers(items: list[Item] | None) -> list[int]:
    assert items is not None
    return [item.cursor.number for item in items if isinstance(item, Event)]


def test_every_event_comes_once_from_wherever_one_joins(store: MemoryStore, hub: Hub, clock: Clock) -> None:
    job = begin(store)
    job.append([str(n) for n in range(10)])
    looks = {n: reader(hub, job, clock, Cursor(job.epoch, n) if n else ORIGIN) for n in range(11)}
    seen = {n: numbers(look()) for n, look in looks.items()}
    job.append(["10", "11"])
    for n, look in looks.items():
        assert seen[n] + numbers(look()) == list(range(n + 1, 13))
        assert look() == []


def test_a_trimmed_head_is_told(store: MemoryStore, hub: Hub, clock: Clock) -> None:
    job = begin(store)
    for _ in range(3):
        job.append(["x"] * 500)
    items = reader(hub, job, clock)()
    assert items is not None
    assert items[0] == Gap(ORIGIN, Cursor(job.epoch, 501))
    assert numbers(items)[0] == 501


def test_a_hole_is_told_where_it_is(store: MemoryStore, hub: Hub, clock: Clock) -> None:
    job = begin(store)
    job.append(["a", "b"])
    job.append(["e"], base=4, floor=4)
    items = reader(hub, job, clock)()
    assert items is not None
    assert items[2] == Gap(Cursor(job.epoch, 2), Cursor(job.epoch, 5))
    assert numbers(items) == [1, 2, 5]


def test_a_new_attempt_is_no_gap(store: MemoryStore, hub: Hub, clock: Clock) -> None:
    first = begin(store)
    first.append(["a"])
    second = first.retry()
    second.append(["b"])
    items = reader(hub, first, clock)()
    assert items is not None
    assert not any(isinstance(item, Gap) for item in items)
    assert numbers(items) == [1, 1, 2]


def test_a_cursor_past_the_tail_waits_for_the_refill(store: MemoryStore, hub: Hub, clock: Clock) -> None:
    job = begin(store)
    job.append(["a"])
    look = reader(hub, job, clock, Cursor(job.epoch, 3))
    assert look() == []
    clock.move(LEASE_MS - 1)
    job.beat()
    assert look() == []
    job.append(["b", "c", "d"])
    assert numbers(look()) == [4]


def test_after_a_lease_a_cursor_past_the_tail_gets_a_gap_and_everything(
    store: MemoryStore, hub: Hub, clock: Clock
) -> None:
    job = begin(store)
    job.append(["a"])
    look = reader(hub, job, clock, Cursor(job.epoch, 3))
    assert look() == []
    clock.move(LEASE_MS)
    job.beat()
    assert look() == [Gap(Cursor(job.epoch, 3), Cursor(job.epoch, 1))]
    assert numbers(look()) == [1]


def test_a_lost_task_ends_with_the_last_events_id(store: MemoryStore, hub: Hub, clock: Clock) -> None:
    job = begin(store)
    job.append(["a"])
    look = reader(hub, job, clock)
    assert numbers(look()) == [1]
    assert look() == []
    clock.move(LEASE_MS)
    hub._on_wakeup(store.channel(job.ref), None)
    items = look()
    assert items is not None
    assert isinstance(items[0], Ended)
    assert (items[0].cursor, '"lost"' in items[0].json) == (Cursor(job.epoch, 1), True)


def test_a_deleted_session_ends_its_followers(store: MemoryStore, hub: Hub, clock: Clock) -> None:
    job = begin(store)
    look = reader(hub, job, clock)
    assert look() == []
    store.delete_session("s1")
    items = look()
    assert items is not None
    assert isinstance(items[0], Ended)


def test_the_end_comes_last_and_once(store: MemoryStore, hub: Hub, clock: Clock) -> None:
    job = begin(store)
    job.append(["a"])
    job.end()
    items = reader(hub, job, clock)()
    assert items is not None
    assert [type(item) for item in items] == [Event, Ended]
    assert items[1].cursor == Cursor(job.epoch, 2)  # type: ignore[union-attr]


class Wrapped:
    """A store that can be taken away and whose wake-ups may be broken."""

    def __init__(self, store: MemoryStore, healthy: bool = True) -> None:
        self._store = store
        self._healthy = healthy
        self.away = False
        self.looks = 0
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def events(self, *args: Any) -> Any:
        self.asked += 1
        if self.away:
            raise StoreUnavailable("away")
        self.looks += 1
        return self._store.events(*args)

    def wakeups(self, on_wakeup: Any) -> Wakeups:
        return self._store.wakeups(on_wakeup) if self._healthy else Deaf()


class Deaf(Wakeups):
    def watch(self, channel: str) -> None:
        pass

    def forget(self, channel: str) -> None:
        pass

    @property
    def healthy(self) -> bool:
        return False

    def close(self) -> None:
        pass


def test_while_the_store_is_away_a_follower_waits(store: MemoryStore, clock: Clock) -> None:
    wrapped = Wrapped(store)
    job = begin(store)
    job.append(["a"])
    look = reader(Hub(wrapped, 10, monotonic=clock.monotonic), job, clock)  # type: ignore[arg-type]
    wrapped.away = True
    assert look() is None
    wrapped.away = False
    clock.move(round(BROKEN_TICK * 1000))
    assert numbers(look()) == [1]


def test_a_read_that_failed_is_not_repeated_by_each_follower(store: MemoryStore, clock: Clock) -> None:
    wrapped = Wrapped(store)
    hub = Hub(wrapped, 100, monotonic=clock.monotonic)  # type: ignore[arg-type]
    job = begin(store)
    looks = [reader(hub, job, clock) for _ in range(20)]
    wrapped.away = True
    assert [look() for look in looks] == [None] * 20
    assert wrapped.asked == 1


def test_a_cursor_past_the_tail_does_not_end_the_sharing_of_the_others(store: MemoryStore, clock: Clock) -> None:
    wrapped = Wrapped(store)
    hub = Hub(wrapped, 100, monotonic=clock.monotonic)  # type: ignore[arg-type]
    job = begin(store)
    job.append(["a", "b"])
    assert numbers(reader(hub, job, clock)()) == [1, 2]
    reader(hub, job, clock, Cursor(job.epoch, 999))()
    before = wrapped.asked
    for _ in range(10):
        assert numbers(reader(hub, job, clock)()) == [1, 2]
    assert wrapped.asked <= before + 1


def test_an_end_of_a_lost_task_never_names_a_cursor_past_its_tail(store: MemoryStore, clock: Clock) -> None:
    job = begin(store)
    job.append(["a"])
    clock.move(LEASE_MS)
    ended = reader(Hub(store, 10), job, clock, Cursor(job.epoch, 9))()
    assert ended is not None
    assert [item.cursor for item in ended if isinstance(item, Ended)] == [Cursor(job.epoch, 1)]


def test_followers_of_a_task_share_their_reads(store: MemoryStore, clock: Clock) -> None:
    wrapped = Wrapped(store)
    hub = Hub(wrapped, 100)  # type: ignore[arg-type]
    job = begin(store)
    job.append([str(n) for n in range(50)])
    looks = [reader(hub, job, clock) for _ in range(20)]
    for look in looks:
        assert numbers(look()) == list(range(1, 51))
    assert wrapped.looks <= 2


def test_broken_wakeups_cost_a_tick_and_no_event(store: MemoryStore) -> None:
    hub = Hub(Wrapped(store, healthy=False), 10)  # type: ignore[arg-type]
    job = begin(store)
    follower = Follower(hub, enter(hub, job), ORIGIN, SSE)
    assert hub.tick == BROKEN_TICK
    assert next(follower).startswith(b"retry")
    assert b"event: status" in next(follower)
    timer = threading.Timer(0.05, lambda: (job.append(["a"]), job.end()))
    timer.start()
    rest = b"".join(follower)
    assert rest.count(b"event: token") == rest.count(b"event: end") == 1
    timer.join()
    follower.close()


def test_a_look_that_failed_is_repeated_soon_although_wakeups_are_healthy(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    hub = Hub(store, 10, monotonic=clock.monotonic)
    job = begin(store)
    job.append(["a"])
    reader = Reader(hub, enter(hub, job), ORIGIN, clock.monotonic)
    assert reader.tick == TICK

    def away(*_: object) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as outage:
        outage.setattr(store, "events", away)
        assert reader.step(0) is None
    assert (hub.tick, reader.tick) == (TICK, BROKEN_TICK)
    clock.move(1000)
    step = reader.step(0)
    assert step is not None
    assert len(step.items) == 1
    assert reader.tick == TICK


def test_healthy_wakeups_need_no_short_tick(store: MemoryStore, hub: Hub) -> None:
    enter(hub, begin(store))
    assert hub.tick == TICK


def test_followers_are_bounded_and_give_their_places_back(store: MemoryStore) -> None:
    hub = Hub(store, 2)
    job = begin(store)
    followers = [Follower(hub, enter(hub, job), ORIGIN, SSE) for _ in range(2)]
    assert hub.enter(job.ref) is None
    followers[0].close()
    followers[0].close()
    assert hub.followers == 1
    assert hub.enter(job.ref) is not None
    del followers
    gc.collect()
    assert hub.enter(job.ref) is not None
    assert hub.followers == 2


def test_a_closed_hub_ends_its_followers_with_retry(store: MemoryStore, hub: Hub) -> None:
    job = begin(store)
    follower = Follower(hub, enter(hub, job), ORIGIN, SSE)
    for _ in range(2):
        next(follower)
    hub.close()
    assert b"".join(follower) == b"retry: 1000\n"
    assert hub.enter(job.ref) is None
    follower.close()


def test_the_followers_of_a_closed_hub_come_back_a_few_at_a_time(store: MemoryStore) -> None:
    hub = Hub(store, 1000)
    job = begin(store)
    job.append(["a"])
    followers = [
        Follower(hub, enter(hub, job), ORIGIN, wire)
        for wire, count in ((AI_SDK, PER_SECOND), (JsonFrames(), PER_SECOND), (SSE, 2 * PER_SECOND))
        for _ in range(count)
    ]
    for follower in followers:
        for _ in range(2):
            next(follower)
    hub.close()
    rests = [b"".join(follower) for follower in followers]
    told = [int(rest.removeprefix(b"retry: ")) for rest in rests[2 * PER_SECOND :]]
    assert (told[0], told) == (1000, sorted(told)), "Only those who are told when to come back count."
    assert 2000 < told[-1] <= 3000
    for follower in followers:
        follower.close()


def test_a_follower_that_waits_ends_at_once_when_it_is_stopped(store: MemoryStore) -> None:
    waits = threading.Event()

    class Told(Hub):
        def wait(self, *args: Any) -> None:
            waits.set()
            super().wait(*args)

    hub = Told(store, 10)
    job = begin(store)
    follower = Follower(hub, enter(hub, job), ORIGIN, SSE)
    for _ in range(2):
        next(follower)
    rest: list[bytes] = []
    thread = threading.Thread(target=lambda: rest.extend(follower))
    thread.start()
    assert waits.wait(TICK)
    follower.stop()
    thread.join(TICK / 2)
    assert rest == [b"retry: 1000\n"]
    follower.close()


def page_of(task: Task) -> Page:
    return Page(0, task, None, [])


def task_frames(hub: Hub, job: Job, clock: Clock) -> TaskFrames:
    permission = Permission(lambda: True, clock.monotonic)
    return TaskFrames(hub, enter(hub, job), ORIGIN, SSE, permission, monotonic=clock.monotonic)


def test_a_status_is_shown_at_most_four_times_a_second(store: MemoryStore, hub: Hub, clock: Clock) -> None:
    job = begin(store)
    frames = task_frames(hub, job, clock)
    shown = 0
    for n in range(100):
        shown += bool(frames._status(page_of(replace(job.task, progress=Progress(n, 100)))))
        clock.move(10)
    assert shown == 4


def test_an_unchanged_status_is_not_repeated(store: MemoryStore, hub: Hub, clock: Clock) -> None:
    job = begin(store)
    frames = task_frames(hub, job, clock)
    assert frames._status(page_of(job.task))
    clock.move(5000)
    assert not frames._status(page_of(job.task))


def test_many_followers_of_a_running_task_each_have_every_event_once(store: MemoryStore) -> None:
    hub = Hub(store, 100)
    job = begin(store)
    streams: list[bytes] = []

    def follow(after: Cursor) -> None:
        follower = Follower(hub, enter(hub, job), after, SSE)
        streams.append(b"".join(follower))
        follower.close()

    threads = [threading.Thread(target=follow, args=(ORIGIN,)) for _ in range(8)]
    for n, thread in enumerate(threads):
        thread.start()
        job.append([f"{n}.{i}" for i in range(100)])
    job.end()
    for thread in threads:
        thread.join(20)
    expected = [f"id: {job.epoch}-{n}" for n in range(1, 802)]
    for stream in streams:
        assert [line for line in stream.decode().split("\n") if line.startswith("id: ")] == expected
        assert b"event: gap" not in stream
    assert len(streams) == 8
    assert hub.followers == 0


def test_a_retry_while_following_loses_no_event(store: MemoryStore, hub: Hub, clock: Clock) -> None:
    first = begin(store)
    look = reader(hub, first, clock)
    assert look() == []
    first.append(["a"])
    assert numbers(look()) == [1]
    second = first.retry()
    second.append(["b", "c"])
    assert numbers(look()) == [1, 2, 3]
    first_again = begin(store, a_session("s2"), a_task("t2"))
    assert look() == []
    assert first_again.epoch > second.epoch


@pytest.mark.parametrize("looked", [False, True])
def test_what_wakeups_bring_loses_no_event_when_an_attempt_begins(redis_kind: Kind, looked: bool) -> None:
    store = redis_kind.make()
    hub = Hub(store, 10)
    first = begin(store)
    channel = enter(hub, first)
    each = Reader(hub, channel, ORIGIN, redis_kind.clock.monotonic)
    if looked:
        step = each.step(channel.version)
        assert step is not None
        assert step.items == []
    second = None
    for job in (first, None):
        if job is None:
            second = job = first.retry()
        for text in "ab":
            version = channel.version
            job.append([text])
            hub.wait(channel, version, 5)
    assert second is not None
    second.end()
    seen: list[Item] = []
    while not (seen and isinstance(seen[-1], Ended)):
        step = each.step(channel.version)
        assert step is not None
        seen += step.items
    assert [item.cursor for item in seen if not isinstance(item, Gap)] == [
        *(Cursor(first.epoch, n) for n in (1, 2)),
        *(Cursor(second.epoch, n) for n in (1, 2, 3, 4)),
    ]
    assert not any(isinstance(item, Gap) for item in seen)
    hub.close()


def test_a_task_that_the_store_lost_is_waited_for_until_it_is_made_again(store: MemoryStore, clock: Clock) -> None:
    emptied = MemoryStore(store.limits, clock=clock)
    wrapped = Wrapped(store)
    job = begin(store)
    job.append(["a"])
    look = reader(Hub(wrapped, 10, monotonic=clock.monotonic), job, clock)  # type: ignore[arg-type]
    assert numbers(look()) == [1]
    wrapped._store = emptied
    clock.move(LEASE_MS - 1000)
    assert look() is None
    job.store = emptied
    heal(job)
    job.append(["a", "b"], base=0)
    clock.move(500)
    assert numbers(look()) == [2]


def test_a_task_that_nobody_makes_again_within_a_lease_is_over(store: MemoryStore, clock: Clock) -> None:
    wrapped = Wrapped(store)
    job = begin(store)
    look = reader(Hub(wrapped, 10, monotonic=clock.monotonic), job, clock)  # type: ignore[arg-type]
    wrapped._store = MemoryStore(store.limits, clock=clock)
    assert look() is None
    clock.move(LEASE_MS)
    ended = look()
    assert ended is not None
    assert isinstance(ended[-1], Ended)


def test_what_is_announced_while_a_subscription_is_under_way_costs_no_tick(
    redis_kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = redis_kind.make()
    hub = Hub(store, 10)
    job = begin(store)
    stands = threading.Event()
    hub.listen("other", stands.set)
    assert stands.wait(5)
    wakeups, under_way = hub._wakeups, []
    assert isinstance(wakeups, RedisWakeups)
    with monkeypatch.context() as patched:
        patched.setattr(wakeups, "_send", lambda *command: under_way.append(command))
        follower = Follower(hub, enter(hub, job), ORIGIN, SSE)
        for _ in range(2):
            next(follower)
        job.append(["a"])
        job.end()
    for command in under_way:
        wakeups._send(*command)
    began = time.monotonic()
    assert b"event: end" in b"".join(follower)
    assert time.monotonic() - began < TICK / 2
    follower.close()
    hub.close()


def test_a_subscription_that_stands_calls_nobody_back(redis_kind: Kind) -> None:
    store = redis_kind.make()
    hub = Hub(store, 10)
    called: list[str] = []
    told = threading.Event()

    def listen(job: Job) -> None:
        hub.listen(store.cancel_channel(job.ref), lambda: (called.append(job.ref.task_id), told.set()))  # type: ignore[func-returns-value]

    jobs = [begin(store, task=a_task(name)) for name in ("t1", "t2", "t3")]
    listen(jobs[0])
    assert told.wait(5), "The connection stands."
    for job in jobs[1:]:
        listen(job)
    called.clear()
    told.clear()
    jobs[2].cancel()
    assert told.wait(5)
    assert called == ["t3"]
    hub.close()


def test_the_end_of_an_earlier_attempt_ends_nothing_for_who_reads_from_the_start(
    store: MemoryStore, hub: Hub, clock: Clock
) -> None:
    first = begin(store)
    first.append(["a"])
    first.end("error")
    second = first.retry()
    second.append(["b"], base=1)
    second.end(base=2)
    channel = hub.enter(first.ref)
    assert channel is not None
    text = b"".join(Follower(hub, channel, ORIGIN, WIRES["sse"])).decode()
    hub.leave(channel)
    types = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
    assert [type for type in types if type != "status"] == ["token", "attempt", "token", "end"]


def test_a_newer_attempt_goes_on_listening_when_an_earlier_one_ends_its_listen(store: MemoryStore, hub: Hub) -> None:
    heard: list[int] = []
    job = begin(store)
    name = store.cancel_channel(job.ref)
    hub.listen(name, lambda: heard.append(1))
    hub.listen(name, lambda: heard.append(2))
    hub.ignore(name)
    job.cancel()
    assert heard == [2]
    hub.ignore(name)
    job.cancel()
    assert heard == [2]
