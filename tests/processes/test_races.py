"""F11, F12: whoever comes first, a task has one end, and it stays: a thousand races each, in threads and processes."""

from __future__ import annotations

import json
import multiprocessing
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest
import redis
from harness import START, Job, Kind, a_session, a_task
from processes.racing import TOKEN, WAIT, Gate, Outcome, contend_in_process, contend_in_threads, deadline_of, job_of

from flask_sessionstatus.errors import NotFound
from flask_sessionstatus.models import TaskState
from flask_sessionstatus.stores.base import Change, End, Page, Store, Verdict

pytestmark = pytest.mark.slow

RACES = 1000
TEAMS = 2
LATER = 10_000


class Arena:
    """Where races are run: each side has a contender in each team, and a team is some threads of this process."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.gate: Gate = threading.Barrier(2 * TEAMS + 1)
        self.store: Store = kind.make()

    def clear(self) -> None:
        """Forget all that was, and begin at the beginning of time."""
        self.store = self.kind.make()
        self.set_clock(START)

    def set_clock(self, now: int) -> None:
        self.kind.clock.now = now

    def let_in(self, sides: Sequence[str], epochs: Sequence[int]) -> Callable[[], list[list[Outcome]]]:
        """Send the contenders to the gate; the function returned gives what they were told, once all races are over."""
        return contend_in_threads([*sides] * TEAMS, self.store, epochs, self.gate, self.set_clock)

    def close(self) -> None:
        """End what was started for it."""


class ArenaOfProcesses(Arena):
    """Each team is a process; they meet on one Redis."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        context = multiprocessing.get_context("spawn")
        self.gate = context.Barrier(2 * TEAMS + 1)
        self._orders, self._processes = [], []
        for _ in range(TEAMS):
            ours, theirs = context.Pipe()
            process = context.Process(target=contend_in_process, args=(kind.url, self.gate, theirs), daemon=True)
            process.start()
            theirs.close()
            self._orders.append(ours)
            self._processes.append(process)

    @property
    def client(self) -> redis.Redis:
        assert self.kind.client is not None
        return self.kind.client

    def clear(self) -> None:
        self.client.flushdb()
        super().clear()

    def set_clock(self, now: int) -> None:
        super().set_clock(now)
        self.client.set("test:clock", now)

    def let_in(self, sides: Sequence[str], epochs: Sequence[int]) -> Callable[[], list[list[Outcome]]]:
        for orders in self._orders:
            orders.send((sides, epochs))
        return lambda: [told for orders in self._orders for told in orders.recv()]

    def close(self) -> None:
        for orders, process in zip(self._orders, self._processes):
            orders.send(None)
            process.join(WAIT)
            process.close()
            orders.close()


@pytest.fixture(scope="module", params=["memory", "redis"])
def arenas(request: pytest.FixtureRequest, redis_url: Callable[[str], str]) -> Iterator[Arena]:
    kind = Kind(request.param, None if request.param == "memory" else redis_url("newest"))
    with closing(kind), closing(ArenaOfProcesses(kind) if kind.is_redis else Arena(kind)) as arena:
        yield arena


@pytest.fixture
def arena(arenas: Arena) -> Arena:
    arenas.clear()
    return arenas


def look(job: Job) -> Page | None:
    """The task with all its events; None: it was deleted."""
    try:
        return job.page()
    except NotFound:
        return None


class Announced:
    """What was announced of each task, in order: its record, and the types of the events that came with it."""

    def __init__(self, client: redis.Redis) -> None:
        self._pubsub = client.pubsub(ignore_subscribe_messages=True)
        self._pubsub.psubscribe("sessionstatus:{c*}:task:t*")
        self._pubsub.get_message(timeout=5)

    def read(self) -> dict[int, list[tuple[dict[str, Any], list[str]]]]:
        found: dict[int, list[tuple[dict[str, Any], list[str]]]] = {}
        while (message := self._pubsub.get_message(timeout=0.2)) is not None:
            channel, said = message["channel"].decode(), message["data"].decode().split("\n")
            if not channel.endswith(":cancel") and len(said) > 2:
                number = int(channel.rpartition(":t")[2])
                found.setdefault(number, []).append((json.loads(said[1]), [type for type in said[3::2] if type]))
        self._pubsub.close()
        return found


class Races:
    """A thousand races that were run: the task and its events right after each, and what its contenders were told."""

    def __init__(
        self, arena: Arena, *sides: str, prepare: Callable[[Job, int], object] = lambda job, number: None, **task: Any
    ) -> None:
        store, self.jobs = arena.store, []
        for number in range(RACES):
            arena.set_clock(START + number)
            draft = a_task(f"t{number}", token=TOKEN, **task)
            begun = store.begin(a_session(f"s{number}", f"c{number}"), draft)
            self.jobs.append(job_of(store, number, begun.epoch))
            prepare(self.jobs[-1], number)
        listener = Announced(arena.client) if isinstance(arena, ArenaOfProcesses) else None
        wait = arena.let_in(sides, [job.epoch for job in self.jobs])
        self.pages: list[Page | None] = []
        for job in self.jobs:
            arena.gate.wait(WAIT)
            arena.gate.wait(WAIT)
            self.pages.append(look(job))
        told = wait()
        self.announced = listener.read() if listener is not None else None
        self.told: list[dict[str, list[Outcome]]] = [
            {
                side: [told[team * len(sides) + place][number] for team in range(TEAMS)]
                for place, side in enumerate(sides)
            }
            for number in range(RACES)
        ]
        arena.set_clock(deadline_of(RACES) + LATER)

    def has_one_end_each(self) -> Counter[str]:
        """Check that each task ended once, in all that can be read, and that nothing changes it; how each ended."""
        for number, (job, page) in enumerate(zip(self.jobs, self.pages)):
            assert page is not None
            assert page.task.state.terminal
            types = [event.type for event in page.events]
            assert types.count("end") == 1
            assert types[-1] == "end"
            assert page.events[-1].data["state"] == page.task.state.value  # type: ignore[index,call-overload]
            assert page.task.tail == len(page.events)
            assert page.task.updated_at == page.task.finished_at
            assert (page.task.state is TaskState.ERROR) == (page.task.error_type is not None)
            assert (job.store.result(job.ref.session_id, job.ref.task_id) is not None) == page.task.result_available
            if self.announced is not None:
                ended = [(record, types) for record, types in self.announced[number] if "finished" in record]
                assert [types[-1:] for _, types in ended] == [["end"]]
                assert [ended[0][0]["state"], ended[0][0]["finished"]] == [page.task.state, page.task.finished_at]
            self._throw_late_things_at(job)
            after = look(job)
            assert after is not None
            assert (after.task, after.events, after.first) == (page.task, page.events, page.first)
            assert job.store.snapshot(job.ref.conversation_id).task(job.ref.task_id) == page.task == job.task
        return Counter(page.task.state.value for page in self.pages if page is not None)

    @staticmethod
    def _throw_late_things_at(job: Job) -> None:
        late = [("token", '{"text":"late"}')] * 5
        assert job.append(late, base=0).verdict is Verdict.CLOSED
        assert job.append([*late, ("end", "{}")], base=0, end=End("error", "Late")).verdict is Verdict.CLOSED
        job.append(base=0, change=Change(running=True, current=100, message="late"))
        job.beat()
        job.cancel()


def test_of_two_ends_one_is_the_tasks(arena: Arena) -> None:
    races = Races(arena, "complete", "fail")
    ends = races.has_one_end_each()
    assert min(ends["completed"], ends["error"]) > 0, "One side always came first: that was no race."
    for page, told in zip(races.pages, races.told):
        assert page is not None
        # A repeated end is harmless. The other one goes further: either it is the task's, or it hears that it is not.
        assert told["complete"] == [("stored",)] * TEAMS
        assert told["fail"] == [("stored" if page.task.state is TaskState.ERROR else "closed",)] * TEAMS


def test_a_task_completes_or_is_cancelled(arena: Arena) -> None:
    """Before it began, a stop ends it; once it runs, its own end is what counts, also after it was asked to stop."""
    races = Races(arena, "complete", "cancel", pending=True)
    ends = races.has_one_end_each()
    assert min(ends["completed"], ends["cancelled"]) > 0, "One side always came first: that was no race."
    for page, told in zip(races.pages, races.told):
        assert page is not None
        end = page.task.state.value, str(page.task.finished_at)
        assert told["cancel"] == [end] * TEAMS
        assert told["complete"] == [("stored" if page.task.state is TaskState.COMPLETED else "closed",)] * TEAMS


def test_a_running_task_completes_in_spite_of_a_stop(arena: Arena) -> None:
    races = Races(arena, "complete", "cancel")
    assert races.has_one_end_each() == {"completed": RACES}
    asked = [page.task.cancel_requested_at is not None for page in races.pages if page is not None]
    assert 0 < sum(asked) < RACES, "One side always came first: that was no race."
    for page, told in zip(races.pages, races.told):
        assert page is not None
        assert told["complete"] == [("stored",)] * TEAMS
        assert {state for state, _ in told["cancel"]} <= {"running", "completed"}


def test_a_lease_runs_out_while_its_task_completes(arena: Arena) -> None:
    races = Races(arena, "complete", "expire")
    assert races.has_one_end_each() == {"completed": RACES}
    seen = Counter(state for told in races.told for state, _ in told["expire"])
    assert set(seen) == {"lost", "completed"}, "One side always came first: that was no race."
    for told in races.told:
        assert told["complete"] == [("stored",)] * TEAMS


def test_a_lease_runs_out_while_a_task_that_was_asked_to_stop_completes(arena: Arena) -> None:
    races = Races(arena, "complete", "expire", prepare=lambda job, number: job.cancel())
    ends = races.has_one_end_each()
    assert min(ends["completed"], ends["cancelled"]) > 0, "One side always came first: that was no race."
    for page, told in zip(races.pages, races.told):
        assert page is not None
        assert told["expire"] == [(page.task.state.value, str(page.task.finished_at))] * TEAMS
        assert told["complete"] == [("stored" if page.task.state is TaskState.COMPLETED else "closed",)] * TEAMS


def test_progress_comes_before_the_end_or_not_at_all(arena: Arena) -> None:
    races = Races(arena, "complete", "progress")
    assert races.has_one_end_each() == {"completed": RACES}
    told = Counter(page.task.progress.message for page in races.pages if page is not None)
    assert set(told) == {None, "late"}, "One side always came first: that was no race."


def test_a_deleted_session_is_not_made_again_by_its_writer(arena: Arena) -> None:
    races = Races(arena, "work", "delete")
    assert races.pages == [None] * RACES
    assert Counter(told for race in races.told for told in race["delete"]) == {("True",): RACES, ("False",): RACES}
    verdicts = Counter(verdict for race in races.told for told in race["work"] for verdict in told)
    assert set(verdicts) == {"stored", "deleted"}, "One side always came first: that was no race."
    for race in races.told:
        for told in race["work"]:
            # Once it is deleted, it is deleted.
            assert list(told) == sorted(told, reverse=True)
    for job in races.jobs:
        assert [job.append(["a"], base=0).verdict, job.beat().verdict, job.end(base=0).verdict] == [Verdict.DELETED] * 3
        assert job.store.session(job.ref.session_id) is None
        assert job.store.snapshot(job.ref.conversation_id).sessions == {}
    assert arena.store.sessions("u1", RACES, None).sessions == []
    if isinstance(arena, ArenaOfProcesses):
        assert what_is_left(arena.client) == {
            "test:clock": 1,
            "where a session is found": RACES,
            "a conversation, empty": RACES,
            "a tombstone of a session": RACES,
            "a tombstone of a task": RACES,
        }


def what_is_left(client: redis.Redis) -> Counter[str]:
    """The keys of the server, counted by what they are; but for the listings, whose places each reader checks."""
    names = [key.decode() for key in client.keys("*")]
    return Counter(kind_of(client, name) for name in names if not name.startswith("sessionstatus:namespace:"))


def kind_of(client: redis.Redis, key: str) -> str:
    if key == "test:clock":
        return key
    name = key.removeprefix("sessionstatus:")
    if name.startswith("session:"):
        return "where a session is found"
    if name.endswith("}") and client.hkeys(key) == [b"lastEpoch"]:
        return "a conversation, empty"
    if client.type(key) == b"hash" and client.hkeys(key) == [b"deleted"]:
        return f"a tombstone of a {name.split(':')[1]}"
    return key
