"""A task's log on every store: what an append answers, and in which order it looks."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from harness import START, Clock, Job, Kind, a_session, a_task, at_once, begin

from flask_sessionstatus.errors import AlreadyStarted
from flask_sessionstatus.models import ORIGIN, Cursor, TaskState
from flask_sessionstatus.stores.base import Append, Beat, Change, End, Limits, Store, TaskRef, Verdict

MakeStore = Callable[[Limits], Store]
LEASE = Limits().lease


def test_events_are_numbered_and_come_back_as_they_were(store: Store) -> None:
    job = begin(store)
    given = [("token", '{"text":"Grüße \\n 🎈"}'), ("data", "[1,null]"), ("x.y:z-1", '""')]
    answer = job.append(given)
    assert (answer.verdict, answer.number, answer.cancel_requested_at) == (Verdict.STORED, 3, None)
    page = job.page()
    assert page is not None
    assert [(event.type, event.json) for event in page.events] == given
    assert [event.cursor for event in page.events] == [Cursor(job.epoch, n) for n in (1, 2, 3)]
    assert page.first == Cursor(job.epoch, 1)
    assert (page.task.tail, page.task.cursor) == (3, Cursor(job.epoch, 3))


def test_a_cursor_is_exclusive_and_a_page_has_its_limit(store: Store, clock: Clock) -> None:
    job = begin(store)
    job.append(list("abcdefg"))
    assert job.texts(Cursor(job.epoch, 2)) == ["c", "d", "e", "f", "g"]
    assert job.texts(Cursor(job.epoch, 2), 2) == ["c", "d"]
    assert job.texts(Cursor(job.epoch, 7)) == []
    assert job.texts(Cursor(job.epoch, 99)) == []
    assert job.texts(Cursor(job.epoch - 1, 99)) == list("abcdefg")
    assert job.texts(Cursor(job.epoch + 1, 0)) == []
    assert job.texts(ORIGIN, 1) == ["a"]
    page = job.page(Cursor(job.epoch, 7))
    assert page is not None
    assert (page.first, page.now) == (Cursor(job.epoch, 1), clock.now)


def test_a_page_of_an_unknown_task_is_none(store: Store) -> None:
    begin(store)
    assert store.events(TaskRef("c1", "s1", "t9"), ORIGIN, 10) is None
    assert store.events(TaskRef("c1", "s9", "t1"), ORIGIN, 10) is None
    assert store.events(TaskRef("c9", "s1", "t1"), ORIGIN, 10) is None


def test_an_append_to_what_the_store_does_not_know_is_missing(store: Store) -> None:
    answers = store.append([Append(TaskRef("c1", "s1", "t1"), 1, START, 0, 0, [("token", "{}")])])
    assert answers[0].verdict is Verdict.MISSING  # type: ignore[union-attr]
    assert store.beat([Beat(TaskRef("c1", "s1", "t1"), 1, START)])[0].verdict is Verdict.MISSING  # type: ignore[union-attr]


def test_an_append_under_a_later_epoch_than_the_store_knows_is_missing(store: Store) -> None:
    job = begin(store)
    job.epoch += 1
    assert job.append(["a"]).verdict is Verdict.MISSING
    assert job.beat().verdict is Verdict.MISSING


def test_an_append_under_an_earlier_epoch_is_fenced(store: Store) -> None:
    job = begin(store)
    job.epoch -= 1
    assert job.append(["a"]).verdict is Verdict.FENCED
    assert job.beat().verdict is Verdict.FENCED


def test_what_is_stored_already_is_stored_again_without_harm(store: Store) -> None:
    job = begin(store)
    job.append(["a", "b", "c"])
    answer = job.append(["a", "b"], base=0)
    assert (answer.verdict, answer.number) == (Verdict.STORED, 3)
    assert job.texts() == ["a", "b", "c"]


def test_a_partial_overlap_stores_only_what_is_new(store: Store) -> None:
    job = begin(store)
    job.append(["a", "b"])
    answer = job.append(["b", "c", "d"], base=1)
    assert (answer.verdict, answer.number) == (Verdict.STORED, 4)
    assert job.texts() == ["a", "b", "c", "d"]


def test_a_store_that_is_behind_says_what_it_needs(store: Store) -> None:
    job = begin(store)
    job.append(["a", "b"])
    answer = job.append(["e"], base=4)
    assert (answer.verdict, answer.number) == (Verdict.NEED, 2)
    assert job.texts() == ["a", "b"]
    assert job.append(["c", "d", "e"], base=2).number == 5
    assert job.texts() == list("abcde")


def test_an_end_or_change_ahead_of_its_turn_is_not_stored(store: Store) -> None:
    job = begin(store)
    assert job.append([("end", "{}")], base=3, end=End("completed")).verdict is Verdict.NEED
    assert job.append(base=3, change=Change(current=9)).verdict is Verdict.NEED
    assert (job.task.state, job.task.progress.current) == (TaskState.RUNNING, None)


def test_a_hole_is_accepted_exactly_at_the_floor(store: Store) -> None:
    job = begin(store)
    job.append(["a"])
    assert job.append(["e"], base=4, floor=3).verdict is Verdict.NEED
    answer = job.append(["d", "e"], base=3, floor=3)
    assert (answer.verdict, answer.number) == (Verdict.STORED, 5)
    assert job.numbers() == [1, 4, 5]


def test_a_stored_append_tells_of_the_cancel_request(store: Store) -> None:
    job = begin(store)
    job.cancel()
    assert job.append(["a"]).cancel_requested_at == START
    assert job.append(["z"], base=9).cancel_requested_at == START
    assert job.append(["a"], base=0).cancel_requested_at == START


def test_deleted_comes_before_fenced(store: Store) -> None:
    first = begin(store)
    first.retry()
    store.delete_session("s1")
    assert first.append(["a"]).verdict is Verdict.DELETED


def test_fenced_comes_before_closed_and_need(store: Store) -> None:
    first = begin(store)
    first.append(["a"])
    first.retry().end()
    assert first.append(["a"], base=0).verdict is Verdict.FENCED
    assert first.append(["z"], base=9).verdict is Verdict.FENCED


def test_closed_comes_before_need(store: Store) -> None:
    job = begin(store)
    job.end()
    assert job.append(["z"], base=9).verdict is Verdict.CLOSED


def test_only_the_last_events_are_kept(make_store: MakeStore) -> None:
    store = make_store(Limits(max_events=5))
    job = begin(store)
    for start in range(0, 12, 4):
        job.append([str(n) for n in range(start, start + 4)])
    assert job.numbers() == [8, 9, 10, 11, 12]
    page = job.page()
    assert page is not None
    assert page.first == Cursor(job.epoch, 8)
    assert page.task.tail == 12
    assert job.append(["12"]).number == 13
    assert job.numbers(Cursor(job.epoch, 12)) == [13]


def test_a_batch_larger_than_what_is_kept_leaves_its_last_events(make_store: MakeStore) -> None:
    store = make_store(Limits(max_events=5))
    job = begin(store)
    assert job.append([str(n) for n in range(12)]).number == 12
    assert job.numbers() == [8, 9, 10, 11, 12]


def test_a_large_batch_is_stored_whole(store: Store) -> None:
    job = begin(store)
    assert job.append([str(n) for n in range(3000)]).number == 3000
    assert job.texts(Cursor(job.epoch, 2990), 100) == [str(n) for n in range(2990, 3000)]


def test_each_append_of_a_call_stands_for_itself(store: Store) -> None:
    jobs = [begin(store, a_session(f"s{n}", f"c{n % 2}"), a_task(f"t{n}")) for n in range(4)]
    store.delete_session("s1")
    jobs[2].end()
    answers = store.append(
        [
            *(Append(job.ref, 1, job.epoch, job.tail, 0, [("token", '{"text":"x"}')]) for job in jobs),
            Append(TaskRef("c7", "s7", "t7"), 1, START, 0, 0, [("token", "{}")]),
        ]
    )
    assert [answer.verdict.value for answer in answers] == ["stored", "deleted", "closed", "stored", "missing"]  # type: ignore[union-attr]
    assert jobs[0].texts() == jobs[3].texts() == ["x"]
    assert store.append([]) == []
    assert store.beat([]) == []


def test_each_beat_of_a_call_stands_for_itself(store: Store, clock: Clock) -> None:
    jobs = [begin(store, a_session(f"s{n}", f"c{n % 2}"), a_task(f"t{n}")) for n in range(3)]
    jobs[2].append(["a", "b"])
    store.delete_session("s1")
    answers = store.beat([Beat(job.ref, 1, job.epoch) for job in jobs])
    assert [(answer.verdict.value, answer.number) for answer in answers] == [
        ("stored", 0),
        ("deleted", 0),
        ("stored", 2),
    ]  # type: ignore[union-attr]


def test_appends_of_many_threads_to_their_own_tasks_all_arrive(store: Store) -> None:
    jobs = [begin(store, a_session(f"s{n}"), a_task(f"t{n}")) for n in range(8)]

    def write(job: Job) -> None:
        for n in range(20):
            assert job.append([str(n)]).verdict is Verdict.STORED

    assert at_once(*(lambda job=job: write(job) for job in jobs)) == [None] * 8  # type: ignore[misc]
    for job in jobs:
        assert job.texts() == [str(n) for n in range(20)]


def test_a_control_event_of_the_log_cannot_be_overwritten_by_a_payload(store: Store) -> None:
    job = begin(store)
    job.append([("token", '{"id":"9-9","type":"end","state":"completed"}')])
    page = job.page()
    assert page is not None
    assert (page.events[0].type, page.events[0].cursor.number, page.task.state) == ("token", 1, TaskState.RUNNING)


# Wake-ups


class Heard:
    """What a listener heard, and a way to wait for it."""

    def __init__(self, kind: Kind, store: Store) -> None:
        self._changed = threading.Condition()
        self._names: list[str] = []
        self._is_told = kind.is_redis
        self.wakeups = store.wakeups(self._hear)
        if self._is_told:
            assert self.until("")

    def watch(self, name: str) -> None:
        """Watch a channel; where that takes a moment, it is told when it stands."""
        self.wakeups.watch(name)
        if self._is_told:
            assert self.until(name)

    def _hear(self, name: str, hint: bytes | None) -> None:
        with self._changed:
            self._names.append(name)
            self._changed.notify_all()

    def until(self, name: str) -> bool:
        with self._changed:
            heard = self._changed.wait_for(lambda: name in self._names, 5)
            self._names.clear()
            return heard

    def __contains__(self, name: str) -> bool:
        return name in self._names


def test_events_changes_and_the_end_are_announced(kind: Kind, store: Store) -> None:
    job = begin(store)
    heard = Heard(kind, store)
    channel = store.channel(job.ref)
    heard.watch(channel)
    for say in (lambda: job.append(["a"]), lambda: job.append(change=Change(current=1)), job.end):
        say()
        assert heard.until(channel)
    assert heard.wakeups.healthy
    heard.wakeups.close()


@pytest.mark.parametrize("way", ["cancel", "delete", "replace"])
def test_a_request_to_stop_is_announced_on_its_own_channel(kind: Kind, store: Store, way: str) -> None:
    job = begin(store)
    heard = Heard(kind, store)
    heard.watch(store.cancel_channel(job.ref))
    if way == "cancel":
        job.cancel()
    elif way == "delete":
        store.delete_session("s1")
    else:
        begin(store, task=a_task("t2"), if_running="replace")
    assert heard.until(store.cancel_channel(job.ref))
    heard.wakeups.close()


def test_a_cancelled_and_settled_task_announces_its_end(kind: Kind, store: Store, clock: Clock) -> None:
    job = begin(store)
    job.cancel()
    heard = Heard(kind, store)
    heard.watch(store.channel(job.ref))
    clock.move(LEASE)
    assert job.texts() == ["end"]
    assert heard.until(store.channel(job.ref))
    heard.wakeups.close()


@pytest.mark.parametrize("session_id", ["s1", "s:1 ключ"])
def test_a_session_hears_of_each_attempt_that_begins_and_of_its_deletion(
    kind: Kind, store: Store, session_id: str
) -> None:
    session = a_session(session_id)
    store.create_session(session)
    heard, channel = Heard(kind, store), store.session_channel("c1", session_id)
    heard.watch(channel)
    job = begin(store, session)
    assert heard.until(channel)
    second = job.retry()
    assert heard.until(channel)
    second.end()
    begin(store, session, a_task("t2"))
    assert heard.until(channel)
    begin(store, a_session("other"), a_task("t3"))
    store.delete_session("other")
    with heard._changed:
        assert channel not in heard
    store.delete_session(session_id)
    assert heard.until(channel)
    heard.wakeups.close()


def test_what_is_not_watched_is_not_heard(kind: Kind, store: Store) -> None:
    first, second = begin(store, task=a_task("t1")), begin(store, task=a_task("t2"))
    heard = Heard(kind, store)
    for job in (first, second):
        heard.watch(store.channel(job.ref))
    heard.wakeups.forget(store.channel(first.ref))
    first.append(["a"])
    second.append(["b"])
    with heard._changed:
        assert heard._changed.wait_for(lambda: store.channel(second.ref) in heard._names, 5)
        assert store.channel(first.ref) not in heard._names
    heard.wakeups.close()


def test_an_idempotency_key_is_told_apart_from_a_session_of_that_name(store: Store) -> None:
    begin(store, a_session("key"), a_task("key", idempotency_key="session"))
    with pytest.raises(AlreadyStarted):
        begin(store, a_session("session"), a_task("t2", idempotency_key="session"))
