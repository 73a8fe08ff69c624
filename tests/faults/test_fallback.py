"""F22: with `SESSIONSTATUS_IN_MEMORY_FALLBACK` a process goes on while Redis is away, and everything is in Redis
afterwards, exactly once.

With SESSIONSTATUS_SLOW=1 Redis is away for 30 s, else for 3.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator

import pytest
from faults.followers import Follower
from faults.stores import FaultyRedis
from faults.traffic import PACE, SHORT, Traffic
from harness import whole_log
from processes.client import wait_until
from processes.gunicorns import Server

from flask_sessionstatus.models import TaskState
from flask_sessionstatus.stores import Limits, Store, store_from_uri
from flask_sessionstatus.stores.base import TaskRef

SLOW = os.environ.get("SESSIONSTATUS_SLOW") == "1"
OUTAGE = 30.0 if SLOW else 3.0
BEFORE, AFTER = 2.0, 2.0
GENERATIONS, RATE = 10, 20.0
LONG_PACE = 0.05
SETTINGS = {"LEASE": 10, "HEARTBEAT": 1, "IN_MEMORY_FALLBACK": "true", "BACKGROUND_WORKERS": 40, "MAX_FOLLOWERS": 100}

pytestmark = pytest.mark.timeout(60 + 4 * OUTAGE)


@pytest.fixture(params=["stopped", "killed", "killed-empty"])
def fault(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def server(fault: str) -> Iterator[FaultyRedis]:
    server = FaultyRedis(persistent=fault == "killed").start()
    yield server
    server.remove()


def strike(server: FaultyRedis, fault: str) -> None:
    """Redis is away for so long."""
    began = time.monotonic()
    if fault == "stopped":
        server.pause()
        time.sleep(OUTAGE)
        server.go_on()
    else:
        server.kill()
        time.sleep(OUTAGE)
        server.start()
    print(f"{fault}: away for {time.monotonic() - began:.1f} s")  # noqa: T201


def numbers_of(store: Store, ref: TaskRef) -> tuple[TaskState, list[int], list[int]]:
    """A task's state, the numbers of its events, and what they say; the last is its end."""
    page = whole_log(store, ref)
    assert page is not None, ref
    assert page.events[-1].type == "end"
    said = [json.loads(event.json)["number"] for event in page.events[:-1]]
    return page.task.state, [event.cursor.number for event in page.events], said


def has_ended(store: Store, ref: TaskRef) -> bool:
    task = store.task(ref.session_id, ref.task_id)
    assert task is not None, ref
    return task.state.terminal


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gthread", "gevent"])
def test_whatever_was_answered_while_redis_was_away_is_in_redis_exactly_once(
    server: FaultyRedis, fault: str, kind: str, serve: Callable[..., Server], chance: random.Random
) -> None:
    options = ("--threads", "100") if kind == "gthread" else ()
    web = serve("--workers", "1", *options, kind=kind, STORAGE_URI=server.url, **SETTINGS)
    seconds = BEFORE + OUTAGE + AFTER
    traffic = Traffic(web.url, RATE, random.Random(chance.random()))
    long: list[TaskRef] = []
    followers: list[Follower] = []
    for number in range(GENERATIONS):
        begun = traffic.request("POST", f"/count/long-{number}?seconds={seconds}&pace={LONG_PACE}")
        ref = TaskRef(f"long-{number}", begun["sessionId"], begun["taskId"])
        long.append(ref)
        path = f"/api/v1/conversations/{ref.conversation_id}/resume/{ref.session_id}"
        followers += [
            Follower([web.client], path),
            Follower([web.client], path, random.Random(chance.random()) if number % 2 else None),
        ]
    time.sleep(BEFORE)
    strike(server, fault)
    health = lambda: json.loads(web.client.get("/api/v1/health").body)  # noqa: E731
    wait_until(lambda: not health()["degraded"], 15, "the handing over")
    for follower in followers:
        follower.join(seconds + 30)
    traffic.stop()
    wait_until(lambda: not health()["degraded"], 5, "no outage")

    assert traffic.refused == []
    assert traffic.degraded > OUTAGE * RATE / 4
    expected = list(range(round(seconds / LONG_PACE)))
    for follower in followers:
        assert (follower.refused, follower.gaps) == ([], [])
        assert follower.numbers == expected
        assert [end.data["state"] for end in follower.ends] == ["completed"]
    store = store_from_uri(server.url, Limits())
    try:
        events = turns = 0
        for ref in long:
            state, numbers, said = numbers_of(store, ref)
            assert (state, numbers, said) == (TaskState.COMPLETED, list(range(1, len(expected) + 2)), expected)
            assert store.result(ref.session_id, ref.task_id) == str(len(expected))
            events += len(said)
        short = list(range(round(SHORT / PACE)))
        for conversation_id, session_id, task_id in traffic.generations:
            ref = TaskRef(conversation_id, session_id, task_id)
            wait_until(lambda ref=ref: has_ended(store, ref), 5, "the end of a short one")
            state, numbers, said = numbers_of(store, ref)
            assert (state, numbers, said) == (TaskState.COMPLETED, list(range(1, len(short) + 2)), short)
            tasks = store.tasks(session_id, 10)
            assert [(task.task_id, task.attempt) for task in tasks or ()] == [(task_id, 1)]
            events += len(said)
        lost = 0
        for each in traffic.written:
            session = store.session(each.session_id)
            if each.deleted:
                assert session is None
                continue
            if session is None and fault == "killed-empty":
                lost += 1  # made before, and nothing was written of it since: gone with Redis
                continue
            assert session is not None
            stored = store.turns(each.session_id, None, 1000)
            assert stored is not None
            assert [turn.content for turn in stored] == each.turns[-len(stored) :]
            assert session.message_count == len(each.turns)
            assert len(stored) == len(each.turns)
            assert session.metadata == each.metadata
            assert session.current_slots == ({"last": each.turns[-1]} if each.turns else {})
            stamps = [turn.timestamp for turn in stored]
            assert stamps == sorted(stamps)
            turns += len(stored)
        assert lost <= BEFORE * RATE
    finally:
        store.close()
    print(  # noqa: T201
        f"{kind}, {fault}: {sum(traffic.kinds.values())} requests {dict(traffic.kinds)}, "
        f"{traffic.degraded} from memory, slowest {traffic.slowest:.2f} s; {len(traffic.written)} sessions, "
        f"{turns} turns, {len(traffic.generations) + GENERATIONS} generations, {events} events, "
        f"{len(followers)} followers; "
        f"lost before it: {lost}"
    )
    said = web.log.read_text()
    assert "Traceback" not in said
    assert [said.count(words) for words in ("Redis is away (", "Redis is back:")] == [1, 1]
    print("\n".join(line for line in said.splitlines() if "Redis is" in line))  # noqa: T201
