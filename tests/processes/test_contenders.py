"""Sessions that many processes want at the same time: places in a namespace, turns, a delete in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from flask import Flask

from flask_sessionstatus import NamespaceFull, NotFound, SessionStatus

OWNER = "somebody"
ROUNDS = 10
PLACES = 5


class Contenders:
    """Processes that begin at the same time; what they said is theirs to tell once they have ended."""

    def __init__(self, storage: str, **settings: object) -> None:
        chosen = {"STORAGE_URI": storage, **settings}
        self._environment = {
            **os.environ,
            **{f"FLASK_SESSIONSTATUS_{name}": str(value) for name, value in chosen.items()},
        }
        self._processes: list[subprocess.Popen[str]] = []

    def add(self, *arguments: object) -> None:
        self._processes.append(
            subprocess.Popen(
                [sys.executable, "contender.py", *map(str, arguments)],
                cwd=Path(__file__).parent,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )

    def go(self) -> None:
        for process in self._processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()

    def results(self) -> list[Any]:
        """What each said; None for one that was killed."""
        said = [process.communicate(timeout=50)[0] for process in self._processes]
        codes = [process.returncode for process in self._processes]
        self._processes = []
        assert set(codes) <= {0, -signal.SIGKILL}
        return [json.loads(text) if code == 0 else None for text, code in zip(said, codes, strict=True)]

    def remove(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def contenders(storage: str) -> Iterator[Callable[..., Contenders]]:
    made: list[Contenders] = []

    def make(**settings: object) -> Contenders:
        made.append(Contenders(storage, **settings))
        return made[-1]

    yield make
    for each in made:
        each.remove()


@pytest.fixture
def sessionstatus(storage: str) -> Iterator[SessionStatus]:
    """The package in this process, in an app context."""
    app = Flask("here")
    app.config.update(
        SESSIONSTATUS_STORAGE_URI=storage,
        SESSIONSTATUS_MAX_SESSIONS_PER_NAMESPACE=PLACES,
        SESSIONSTATUS_MAX_TURNS=20_000,
    )
    sessionstatus = SessionStatus(app, identify=lambda: OWNER)
    with app.app_context():
        yield sessionstatus
        sessionstatus.shutdown()


def living(sessionstatus: SessionStatus, namespace: str) -> set[str]:
    return {session.session_id for session in sessionstatus.sessions.list(namespace, limit=200).sessions}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_of_a_hundred_contenders_in_ten_processes_exactly_five_get_a_place(
    contenders: Callable[..., Contenders], sessionstatus: SessionStatus
) -> None:
    namespaces = [f"owner {number}" for number in range(ROUNDS)]
    crowd = contenders(MAX_SESSIONS_PER_NAMESPACE=PLACES)
    for _ in range(10):
        crowd.add("places", ",".join(namespaces), 10)
    crowd.go()
    told = crowd.results()
    for namespace in namespaces:
        made = [session_id for found in told for session_id in found[namespace]]
        assert len(made) == PLACES
        assert living(sessionstatus, namespace) == set(made)
        with pytest.raises(NamespaceFull):
            sessionstatus.sessions.create(namespace_id=namespace)
        sessionstatus.sessions.delete(made[0])
        sessionstatus.sessions.create(namespace_id=namespace)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_place_that_a_killed_process_took_is_nobodys_and_comes_back(
    contenders: Callable[..., Contenders], sessionstatus: SessionStatus, storage: str
) -> None:
    crowd = contenders(MAX_SESSIONS_PER_NAMESPACE=PLACES)
    for _ in range(2):
        crowd.add("places", OWNER, 1, "die")
    crowd.go()
    assert crowd.results() == [None, None]
    crowd = contenders(MAX_SESSIONS_PER_NAMESPACE=PLACES)
    for _ in range(8):
        crowd.add("places", OWNER, 12)
    crowd.go()
    made = [session_id for found in crowd.results() for session_id in found[OWNER]]
    assert len(made) == PLACES - 2, "The dead ones' places stand for 30 s."
    assert living(sessionstatus, OWNER) == set(made)
    with redis.Redis.from_url(storage) as client:
        for kept in ("activity", "unsure"):
            key = f"sessionstatus:namespace:{{{OWNER}}}:{kept}"
            for member, at in client.zrange(key, 0, -1, withscores=True):
                client.zadd(key, {member: at - 30_000})
    for _ in range(2):
        made.append(sessionstatus.sessions.create(namespace_id=OWNER).session_id)
    with pytest.raises(NamespaceFull):
        sessionstatus.sessions.create(namespace_id=OWNER)
    assert living(sessionstatus, OWNER) == set(made)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_sixteen_processes_write_five_hundred_turns_each_in_one_order(
    contenders: Callable[..., Contenders], sessionstatus: SessionStatus
) -> None:
    session_id = sessionstatus.sessions.create(namespace_id=OWNER).session_id
    names = [f"w{number}" for number in range(16)]
    crowd = contenders(MAX_TURNS=20_000)
    for name in names:
        crowd.add("turns", session_id, name, 500)
    crowd.go()
    told = dict(zip(names, crowd.results(), strict=True))
    stored = sessionstatus.sessions.turns(session_id)
    assert [turn.position for turn in stored] == list(range(16 * 500))
    for name, positions in told.items():
        assert [stored[position].content for position in positions] == [f"{name} {n}" for n in range(500)]
    assert sessionstatus.sessions.turns(session_id) == stored


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_delete_in_the_middle_ends_all_writers_and_nothing_comes_back(
    contenders: Callable[..., Contenders], sessionstatus: SessionStatus, storage: str
) -> None:
    session_id = sessionstatus.sessions.create("c1", namespace_id=OWNER).session_id
    crowd = contenders(MAX_TURNS=20_000)
    for number in range(16):
        crowd.add("turns", session_id, f"w{number}", 500)
    crowd.go()
    while not sessionstatus.sessions.turns(session_id, limit=1):
        pass
    assert sessionstatus.sessions.delete(session_id)
    told: Sequence[list[int]] = crowd.results()
    assert 0 < sum(map(len, told)) < 16 * 500
    assert sessionstatus.sessions.get(session_id) is None
    with pytest.raises(NotFound):
        sessionstatus.sessions.turns(session_id)
    assert living(sessionstatus, OWNER) == set()
    with redis.Redis.from_url(storage) as client:
        left = {key.decode() for key in client.keys("sessionstatus:*{c1}*")}
        assert left == {f"sessionstatus:{{c1}}:session:{session_id}"}, "Only the tombstone may stand."
        assert client.hgetall(left.pop()) == {b"deleted": b"1"}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_what_processes_counted_is_exact_once_they_have_ended(
    contenders: Callable[..., Contenders], sessionstatus: SessionStatus
) -> None:
    crowd = contenders()
    for number in range(8):
        crowd.add("places", f"owner {number}", 10)
    crowd.go()
    assert sum(len(made) for found in crowd.results() for made in found.values()) == 80
    assert sessionstatus.stats()["sessions_created"] == 80
