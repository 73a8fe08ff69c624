"""F13: fifty processes start at the same moment: with one idempotency key, refusing, and replacing each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from processes.client import wait_until
from processes.conversations import tasks

from flask_sessionstatus.models import ORIGIN, Task, TaskState
from flask_sessionstatus.stores import Limits, Store, store_from_uri
from flask_sessionstatus.stores.base import TaskRef

PROCESSES = 50
TOGETHER = 40
"""So many replace each other at the same moment; of the others each replaces one that works."""

SETTINGS = {"LEASE": 10, "HEARTBEAT": 1}


class Starters:
    """The processes: `told` waits for what as many of them say."""

    def __init__(self, storage: str, conversation_id: str, how: str) -> None:
        settings = {**SETTINGS, "STORAGE_URI": storage}
        environment = {f"FLASK_SESSIONSTATUS_{name}": str(value) for name, value in settings.items()}
        self.process = subprocess.Popen(
            [sys.executable, "starters.py", conversation_id, str(PROCESSES), how],
            cwd=Path(__file__).parent,
            env={**os.environ, **environment, "TOGETHER": str(TOGETHER)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def go(self) -> None:
        """Let all of them start, once each is ready."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def told(self, count: int) -> list[dict[str, Any]]:
        assert self.process.stdout is not None
        return [json.loads(self.process.stdout.readline()) for _ in range(count)]

    def leave(self) -> list[dict[str, Any]]:
        """Let them go; returns what they said until then."""
        said = [json.loads(line) for line in self.process.communicate(timeout=30)[0].splitlines()]
        assert self.process.returncode == 0
        return said

    def remove(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def starters(storage: str, conversation_id: str) -> Iterator[Callable[[str], Starters]]:
    started: list[Starters] = []

    def start(how: str) -> Starters:
        started.append(Starters(storage, conversation_id, how))
        started[-1].go()
        return started[-1]

    yield start
    for each in started:
        each.remove()


@pytest.fixture
def store(storage: str) -> Iterator[Store]:
    store = store_from_uri(storage, Limits())
    yield store
    store.close()


def test_one_idempotency_key_starts_one_task_and_all_are_told_of_it(
    starters: Callable[[str], Starters], store: Store, conversation_id: str
) -> None:
    processes = starters("with_one_key")
    told = processes.told(PROCESSES)
    (task,) = wait_until(
        lambda: [task for task in tasks(store, conversation_id) if task.state.terminal], 10, "the task's end"
    )
    assert told == [{"task": task.task_id, "session": task.session_id}] * PROCESSES
    assert processes.leave() == []
    assert tasks(store, conversation_id) == [task]
    assert task.state is TaskState.COMPLETED
    page = store.events(TaskRef(conversation_id, task.session_id, task.task_id), ORIGIN, 100)
    assert page is not None
    assert [event.type for event in page.events] == ["number"] * 3 + ["end"]
    assert len({event.data["pid"] for event in page.events[:-1]}) == 1  # type: ignore[index,call-overload]
    assert [each.session_id for each in store.sessions("somebody", 100, None).sessions] == [task.session_id]


def test_of_those_who_do_not_start_while_another_runs_exactly_one_starts(
    starters: Callable[[str], Starters], store: Store, conversation_id: str
) -> None:
    processes = starters("rejecting")
    told = processes.told(PROCESSES)
    (task,) = tasks(store, conversation_id)
    assert task.state is TaskState.RUNNING
    assert {each["task"] for each in told} == {task.task_id}
    assert sorted(each["refused"] for each in told) == [False] + [True] * (PROCESSES - 1)
    assert processes.leave() == []
    (task,) = tasks(store, conversation_id)
    assert task.state is TaskState.COMPLETED
    assert [each.session_id for each in store.sessions("somebody", 100, None).sessions] == [task.session_id]


def test_of_those_who_replace_each_other_exactly_one_runs_in_the_end_and_no_two_at_once(
    starters: Callable[[str], Starters], store: Store, conversation_id: str
) -> None:
    processes = starters("replacing")

    def the_last() -> Task | None:
        found = tasks(store, conversation_id)
        ended = [task.state for task in found[:-1]]
        ready = len(found) == PROCESSES and ended == [TaskState.CANCELLED] * (PROCESSES - 1)
        return found[-1] if ready and found[-1].state is TaskState.RUNNING else None

    last = wait_until(the_last, 30, "one that runs, and the others cancelled")
    assert last.cancel_requested_at is None
    store.cancel(TaskRef(conversation_id, last.session_id, last.task_id))
    said = processes.leave()
    worked = sorted((each["since"], each["until"], each["task"]) for each in said)
    assert len(worked) > PROCESSES - TOGETHER
    assert worked[-1][2] == last.task_id
    assert all(until <= since for (_, until, _), (since, _, _) in pairwise(worked))
    began = [task for task in tasks(store, conversation_id) if any(task.task_id == name for _, _, name in worked)]
    assert [task.task_id for task in began] == [name for _, _, name in worked]
    for before, after in pairwise(began):
        assert before.finished_at is not None
        assert after.started_at is not None
        assert before.finished_at <= after.started_at
    assert {task.state for task in tasks(store, conversation_id)} == {TaskState.CANCELLED}
