from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from harness import LEASE_MS, Clock, a_session, a_task, whole_log

from flask_sessionstatus import (
    Cancelled,
    InvalidValue,
    OutboxFull,
    RecordUnreadable,
    SessionStatusError,
    StoreUnavailable,
)
from flask_sessionstatus.leases import Beats
from flask_sessionstatus.models import ORIGIN, utf8_size
from flask_sessionstatus.stores.base import Answer, Append, Change, End, Limits, TaskRef, Verdict
from flask_sessionstatus.stores.memory import MemoryStore
from flask_sessionstatus.streaming.entry import BATCH_BYTES, BATCH_EVENTS, Bounds, Entry
from flask_sessionstatus.streaming.outbox import BATCH_TASKS, Outbox

REF = TaskRef("c1", "s1", "t1")
WAIT = 10.0


class Flaky:
    """A store that can be taken away, and that can forget."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.store = MemoryStore(Limits(), clock=clock)
        self.away = False
        self.batches: list[Append] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def append(self, appends: Sequence[Append]) -> Sequence[Answer | Exception]:
        self._reach()
        self.batches += appends
        return self.store.append(appends)

    def beat(self, beats: Any) -> Any:
        self._reach()
        return self.store.beat(beats)

    def begin(self, *args: Any, **options: Any) -> Any:
        self._reach()
        return self.store.begin(*args, **options)

    def _reach(self) -> None:
        if self.away:
            raise StoreUnavailable("away")

    def forget_all(self) -> None:
        self.store = MemoryStore(Limits(), clock=self.clock)

    def forget_tail(self, count: int) -> None:
        task = self.store._sessions.get("s1").tasks["t1"]  # type: ignore[union-attr]
        for _ in range(count):
            task.events.pop()
        task.record["tail"] -= count
        task.record["state"] = "running"

    def texts(self) -> list[str]:
        page = whole_log(self.store, REF)
        assert page is not None
        assert [event.cursor.number for event in page.events] == list(range(1, len(page.events) + 1))
        return [event.json if event.type == "token" else event.type for event in page.events]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Flaky:
    return Flaky(clock)


class Box:
    """An outbox with one task in it."""

    def __init__(self, store: Flaky, clock: Clock, bounds: Bounds | None = None) -> None:
        self.outbox = Outbox(store, bounds or Bounds(), monotonic=clock.monotonic)  # type: ignore[arg-type]
        self.beats = Beats(store, self.outbox, 5.0)  # type: ignore[arg-type]
        session, task = a_session(), a_task()
        begun = store.begin(session, task)
        session = replace(session, created_at=begun.session_created_at)
        task = replace(task, created_at=begun.task_created_at)
        self.entry: Entry = self.outbox.open(session, task, begun.epoch, begun.tail)

    def emit(self, *texts: object) -> None:
        for text in texts:
            self.outbox.emit(self.entry, "token", str(text), utf8_size(str(text)))

    def end(self, state: str = "completed") -> None:
        self.outbox.end(self.entry, End(state), f'{{"state":"{state}"}}')

    def settle(self) -> None:
        assert until(lambda: self.outbox.flush(self.entry, 0.0))


def bytes_of(entry: Entry) -> int:
    """What an entry's events have in bytes of UTF-8."""
    return sum(len((type + json).encode()) for type, json, _ in entry.events)


def until(condition: Any, seconds: float = WAIT) -> bool:
    """Wait for other threads until the condition holds."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.005)):
        if condition():
            return True
        pause.wait(0.005)
    return False


@pytest.fixture
def box(store: Flaky, clock: Clock) -> Iterator[Box]:
    box = Box(store, clock)
    yield box
    store.away = False
    box.outbox.close(0)


def test_everything_is_stored_in_order_and_the_end_last(store: Flaky, box: Box) -> None:
    box.emit(*range(3000))
    box.end()
    box.settle()
    assert store.texts() == [*map(str, range(3000)), "end"]
    assert store.task("s1", "t1").state.value == "completed"


def test_batches_are_bounded_by_number(store: Flaky, box: Box) -> None:
    store.away = True
    box.emit(*range(1200))
    store.away = False
    box.settle()
    assert max(len(batch.events) for batch in store.batches) <= BATCH_EVENTS
    assert len(store.batches) < 20


@pytest.mark.parametrize("letter", ["x", "я", "😀"])
def test_batches_are_bounded_by_bytes(store: Flaky, box: Box, letter: str) -> None:
    store.away = True
    text = f'"{letter * (60_000 // utf8_size(letter))}"'
    box.emit(*[text] * 20)
    store.away = False
    box.settle()
    assert max(sum(len(event[1].encode()) for event in batch.events) for batch in store.batches) <= BATCH_BYTES
    assert len(store.texts()) == 20


@pytest.mark.parametrize("letter", ["x", "я", "😀"])
def test_what_is_held_is_bounded_by_bytes(store: Flaky, clock: Clock, letter: str) -> None:
    box = Box(store, clock, Bounds(bytes=100_000, wait=0.0))
    store.away = True
    text = f'"{letter * (20_000 // utf8_size(letter))}"'
    box.emit(*[text] * 5)
    with pytest.raises(OutboxFull):
        box.emit(text)
    assert box.entry.bytes == bytes_of(box.entry)
    store.away = False
    box.settle()
    box.emit(*[text] * 5)
    box.end()
    box.settle()
    assert len(store.texts()) == 11
    assert box.entry.bytes == bytes_of(box.entry) <= 100_000
    box.outbox.close(1)


def test_a_store_that_was_away_gets_everything_once(store: Flaky, box: Box) -> None:
    box.emit("a")
    box.settle()
    store.away = True
    box.emit("b", "c")
    assert not box.outbox.flush(box.entry, 0.0)
    assert not box.outbox.wait_while_reachable(box.entry, 0.0)
    store.away = False
    box.settle()
    assert store.texts() == ["a", "b", "c"]


def test_a_record_that_cannot_be_read_keeps_no_other_task_from_waiting_for_its_end(store: Flaky, box: Box) -> None:
    unreadable = box.outbox.open(a_session("s2", "c2"), a_task("t2"), 1, 0)
    append, arrived, gate = store.append, threading.Event(), threading.Event()

    def half(appends: Sequence[Append]) -> Sequence[Answer | Exception]:
        if any(each.ref == REF for each in appends):
            arrived.set()
            gate.wait(WAIT)
        broken = RecordUnreadable("A stored record cannot be read.")
        return [broken if each.ref != REF else append([each])[0] for each in appends]

    store.append = half  # type: ignore[method-assign]
    box.outbox.emit(unreadable, "token", "{}", 2)
    assert until(lambda: unreadable.failures > 0)
    box.end()
    assert arrived.wait(WAIT)
    stored: list[bool] = []
    waiting = threading.Thread(target=lambda: stored.append(box.outbox.wait_while_reachable(box.entry, WAIT)))
    waiting.start()
    waiting.join(0.05)  # it may have begun to wait or not: both ways it is stored
    gate.set()
    waiting.join(WAIT)
    assert stored == [True]
    store.append = append  # type: ignore[method-assign]
    assert until(lambda: unreadable.settled)


def test_a_task_that_was_stopped_is_not_made_again_for_an_answer_that_came_late(store: Flaky, box: Box) -> None:
    append, arrived, gate = store.append, threading.Event(), threading.Event()

    def late(appends: Sequence[Append]) -> Sequence[Answer | Exception]:
        arrived.set()
        gate.wait(WAIT)
        return [Answer(Verdict.MISSING) for _ in appends]

    store.append = late  # type: ignore[method-assign]
    box.emit("a")
    assert arrived.wait(WAIT)
    assert store.delete_session("s1")
    box.beats.beat()
    assert box.entry.stopped is Verdict.DELETED
    store.forget_all()
    gate.set()
    box.outbox.close(WAIT)
    assert store.session("s1") is None
    store.append = append  # type: ignore[method-assign]


def test_a_store_that_forgot_everything_gets_everything_again(store: Flaky, box: Box) -> None:
    box.emit("a", "b")
    box.outbox.change(box.entry, Change(current=1, total=4))
    box.settle()
    epoch = box.entry.epoch
    store.forget_all()
    box.emit("c")
    box.settle()
    assert store.texts() == ["a", "b", "c"]
    task = store.task("s1", "t1")
    assert (task.epoch, task.namespace_id, task.progress.total) == (epoch, "u1", 4)


def test_progress_alone_waits_for_its_turn_and_goes_at_once_when_somebody_waits_for_it(store: Flaky, box: Box) -> None:
    box.outbox.change(box.entry, Change(current=1, total=4))
    box.settle()
    sent = len(store.batches)
    box.outbox.change(box.entry, Change(current=3))
    assert not box.outbox._due()[0]
    assert box.outbox.flush(box.entry, WAIT)
    assert len(store.batches) == sent + 1
    box.outbox.change(box.entry, Change(current=4))
    assert box.outbox.wait_while_reachable(box.entry, WAIT)
    assert store.task("s1", "t1").progress.current == 4


def test_the_end_of_an_attempt_does_not_wait_for_the_turn_of_progress(store: Flaky, box: Box) -> None:
    box.outbox.change(box.entry, Change(current=1, total=4))
    box.settle()
    box.outbox.end(box.entry, End("pending", wait=1000), None)
    box.settle()
    assert store.task("s1", "t1").state.value == "pending"


def test_a_rest_that_waits_for_the_store_gets_shorter_meanwhile(store: Flaky, clock: Clock, box: Box) -> None:
    store.away = True
    box.outbox.change(box.entry, Change(current=1, total=4, remaining=15_000))
    expected = clock.now + 15_000
    clock.move(10_000)
    store.away = False
    box.settle()
    assert store.task("s1", "t1").estimated_completion == expected


def test_a_task_that_is_made_again_ends_when_it_was_to_end(store: Flaky, clock: Clock, box: Box) -> None:
    box.outbox.change(box.entry, Change(current=1, total=4, remaining=15_000))
    expected = clock.now + 15_000
    box.settle()
    clock.move(10_000)
    store.forget_all()
    box.emit("a")
    box.settle()
    assert store.task("s1", "t1").estimated_completion == expected


def test_a_store_that_lost_the_tail_says_what_it_needs_and_gets_it(store: Flaky, box: Box) -> None:
    box.emit(*"abcde")
    box.settle()
    store.forget_tail(3)
    box.emit("f")
    box.settle()
    assert store.texts() == list("abcdef")


def test_a_beat_finds_a_lost_tail_after_the_end(store: Flaky, box: Box) -> None:
    box.emit(*"abc")
    box.end()
    box.settle()
    store.forget_tail(2)
    box.beats.beat()
    box.settle()
    assert store.texts() == ["a", "b", "c", "end"]
    assert store.task("s1", "t1").state.value == "completed"


def test_a_beat_finds_an_empty_store_after_the_end(store: Flaky, box: Box) -> None:
    box.emit("a")
    box.end()
    box.settle()
    store.forget_all()
    box.beats.beat()
    box.settle()
    assert store.texts() == ["a", "end"]


def test_a_task_is_held_for_one_lease_after_its_end_and_not_longer(store: Flaky, box: Box, clock: Clock) -> None:
    box.emit("a")
    box.beats.beat()
    box.end()
    box.settle()
    clock.move(LEASE_MS)
    box.beats.beat()
    assert len(box.outbox.beats()) == 1
    clock.move(1000)
    box.beats.beat()
    assert box.outbox.beats() == []


@pytest.mark.parametrize("verdict", [Verdict.DELETED, Verdict.FENCED, Verdict.CLOSED])
def test_a_verdict_against_the_run_stops_it(store: Flaky, box: Box, clock: Clock, verdict: Verdict) -> None:
    heard = threading.Event()
    box.entry.on_cancel = heard.set
    if verdict is Verdict.DELETED:
        store.delete_session("s1")
    elif verdict is Verdict.FENCED:
        store.begin(a_session(), a_task(attempt=2))
    else:
        store.cancel(REF)
        clock.move(LEASE_MS)
        store.cancel(REF)
    box.emit("late")
    assert heard.wait(WAIT)
    assert box.entry.stopped is verdict
    with pytest.raises(Cancelled):
        box.emit("later")
    assert box.outbox.flush(box.entry, 0.0)
    assert until(lambda: box.outbox.release() is not None and box.outbox.beats() == [])


def test_a_cancel_request_is_heard_once_and_ends_what_the_run_emits(store: Flaky, box: Box) -> None:
    heard: list[int] = []
    box.entry.on_cancel = lambda: heard.append(1)
    box.emit("a")
    store.cancel(REF)
    box.beats.beat()
    box.beats.beat()
    with pytest.raises(Cancelled):
        box.emit("b")
    box.settle()
    assert heard == [1]
    assert store.texts() == ["a"]


def test_a_full_outbox_blocks_and_then_raises_and_drops_nothing(store: Flaky, clock: Clock) -> None:
    box = Box(store, clock, Bounds(events=5, wait=0.0))
    store.away = True
    box.emit(*range(5))
    with pytest.raises(OutboxFull):
        box.emit("too many")
    store.away = False
    box.settle()
    assert store.texts() == ["0", "1", "2", "3", "4"]
    box.emit("6")
    box.settle()
    assert store.texts() == ["0", "1", "2", "3", "4", "6"]
    box.outbox.close(1)


def test_a_full_outbox_waits_for_room(store: Flaky, clock: Clock) -> None:
    box = Box(store, clock, Bounds(events=5, wait=60.0))
    box.emit(*range(200))
    box.settle()
    assert store.texts() == [str(n) for n in range(200)]
    assert len(box.entry.events) <= 5
    box.outbox.close(1)


def test_what_the_outbox_dropped_shows_as_a_hole_only_after_a_loss(store: Flaky, clock: Clock) -> None:
    box = Box(store, clock, Bounds(events=5, wait=60.0))
    for n in range(20):
        box.emit(n)
        box.settle()
    store.forget_all()
    box.emit(20)
    box.settle()
    page = store.events(REF, ORIGIN, 100)
    assert page.events[0].cursor.number > 1
    assert [event.json for event in page.events] == [str(n) for n in range(page.events[0].cursor.number - 1, 21)]
    box.outbox.close(1)


def test_after_its_end_a_task_takes_no_more(store: Flaky, box: Box) -> None:
    box.end()
    with pytest.raises(InvalidValue):
        box.emit("late")
    box.end("error")
    box.outbox.change(box.entry, Change(current=9))
    box.settle()
    assert store.task("s1", "t1").state.value == "completed"
    assert store.task("s1", "t1").progress.current is None


def test_after_a_silence_longer_than_a_tombstone_nothing_is_made_again(store: Flaky, box: Box, clock: Clock) -> None:
    box.emit("a")
    box.settle()
    clock.move(Limits().session_ttl + 1000)
    box.emit("b")
    assert until(lambda: box.entry.stopped is not None)
    assert store.session("s1") is None


def test_a_session_past_its_maximum_age_stops_its_run(clock: Clock) -> None:
    store = Flaky(clock)
    store.store = MemoryStore(Limits(max_age=60_000, session_ttl=60_000), clock=clock)
    box = Box(store, clock)
    clock.move(59_000)
    box.emit("a")
    box.settle()
    clock.move(1000)
    box.emit("b")
    assert until(lambda: box.entry.stopped is not None)
    assert store.session("s1") is None
    assert len(store.batches) < 10
    box.outbox.close(1)


def test_closing_stores_what_is_left(store: Flaky, box: Box) -> None:
    box.emit(*range(1000))
    box.outbox.change(box.entry, Change(current=5))
    assert box.outbox.close(WAIT)
    assert len(store.texts()) == 1000
    assert store.task("s1", "t1").progress.current == 5


def test_an_emit_that_waited_for_room_is_refused_once_the_task_has_ended(store: Flaky) -> None:
    outbox = Outbox(store, Bounds(events=2, wait=WAIT))
    begun = store.begin(a_session(), a_task())
    entry = outbox.open(a_session(), a_task(), begun.epoch, begun.tail)
    store.away = True
    for number in range(2):
        outbox.emit(entry, "token", str(number), 1)
    refused: list[Exception] = []

    def emit() -> None:
        try:
            outbox.emit(entry, "token", "late", 4)
        except SessionStatusError as error:
            refused.append(error)

    thread = threading.Thread(target=emit)
    thread.start()
    outbox.end(entry, End("completed"), "{}")
    store.away = False
    thread.join(WAIT)
    assert len(refused) == 1
    assert outbox.flush(entry, WAIT)
    assert store.texts() == ["0", "1", "end"]


def test_with_many_busy_tasks_each_gets_its_turn(store: Flaky) -> None:
    outbox = Outbox(store)
    entries = [Entry(a_session(), a_task(f"t{n}"), 1, 0) for n in range(BATCH_TASKS + 2)]
    for entry in entries:
        entry.add("token", "{}", 2)
        outbox._dirty[entry.ref.task_id] = entry
    first, _ = outbox._due()
    second, _ = outbox._due()
    assert {entry.ref.task_id for entry in entries} == {entry.ref.task_id for entry in [*first, *second]}


def newer(box: Box, store: Flaky) -> Entry:
    """The next attempt of the same task, taken up in the same process."""
    task = replace(box.entry.task, attempt=2, token="second")
    begun = store.begin(box.entry.session, task)
    return box.outbox.open(box.entry.session, task, begun.epoch, begun.tail)


def test_a_late_answer_to_an_earlier_attempt_takes_nothing_from_the_newer_one(store: Flaky, box: Box) -> None:
    store.away = True
    box.emit("late")
    store.away = False
    second = newer(box, store)
    box.outbox.emit(second, "token", "new", 3)
    box.outbox._take_up(box.entry, Answer(Verdict.FENCED), None)
    box.outbox.end(second, End("completed"), '{"state":"completed"}')
    assert until(lambda: box.outbox.flush(second, 0.0))
    assert (second.stopped, second.end_stored) == (None, True)
    assert store.texts() == ["attempt", "new", "end"]


def test_an_answer_to_a_beat_of_an_earlier_attempt_is_not_the_newer_ones(store: Flaky, box: Box) -> None:
    (beat,) = box.outbox.beats()
    second = newer(box, store)
    box.outbox.answered(beat, Answer(Verdict.FENCED))
    assert second.stopped is None
    box.outbox.emit(second, "token", "new", 3)
    assert until(lambda: box.outbox.flush(second, 0.0))


def test_what_could_not_be_beaten_for_lingers_on_and_nothing_else(store: Flaky, box: Box, clock: Clock) -> None:
    box.end()
    box.settle()
    clock.move(store.limits.lease + 1)
    assert box.outbox.release({box.entry.ref.task_id}) == []
    assert box.outbox.release() == [box.entry]
