"""Many processes that write to one session at the same time: nothing is lost, nothing comes twice, the order is one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from processes.client import Client, wait_until
from processes.gunicorns import Gunicorn

WRITERS, COUNT = 8, 1000
PAGE = 200
BOUNDS = {"MAX_TURNS": WRITERS * COUNT, "LEASE": 10, "HEARTBEAT": 2}
SESSION = "conversation:user123:msg456"


class Writers:
    """The processes that write; `tasks` has the ids of their tasks in the order of the writers."""

    def __init__(self, storage: str, conversation_id: str) -> None:
        settings = {**BOUNDS, "STORAGE_URI": storage}
        environment = {**os.environ, **{f"FLASK_SESSIONSTATUS_{name}": str(value) for name, value in settings.items()}}
        self.processes = [
            subprocess.Popen(
                [sys.executable, "writer.py", conversation_id, SESSION, f"w{number}", str(COUNT)],
                cwd=Path(__file__).parent,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(WRITERS)
        ]

    def go(self) -> None:
        """Let all of them begin at the same time, once each is ready."""
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()

    @property
    def tasks(self) -> list[str]:
        ids = [process.communicate(timeout=60)[0].strip() for process in self.processes]
        assert [process.returncode for process in self.processes] == [0] * WRITERS
        return ids

    def remove(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def writers(storage: str, conversation_id: str) -> Iterator[Writers]:
    writers = Writers(storage, conversation_id)
    yield writers
    writers.remove()


def turns(client: Client) -> list[dict[str, Any]]:
    """All turns of the session, page by page from the last."""
    found: list[dict[str, Any]] = []
    before = ""
    while True:
        page = client.get(f"/api/v1/sessions/{SESSION}/messages?limit={PAGE}{before}").json
        found[:0] = page
        if len(page) < PAGE:
            return found
        before = f"&before={page[0]['position']}"


def events(client: Client, task_id: str) -> list[tuple[str | None, str, Any]]:
    """A task's events, as its stream tells them from the first to the end."""
    path = f"/api/v1/sessions/{SESSION}/tasks/{task_id}/events"
    with client.stream(path, {"Accept": "text/event-stream"}) as stream:
        return [(frame.id, frame.type, frame.data) for frame in stream if frame.id is not None]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_eight_processes_write_a_thousand_events_and_turns_each_and_every_reader_sees_the_same(
    serve: Callable[..., Gunicorn], storage: str, conversation_id: str, writers: Writers
) -> None:
    one, other = (
        serve("--workers", "1", "--worker-class", "gthread", "--threads", "12", STORAGE_URI=storage, **BOUNDS)
        for _ in range(2)
    )
    tasks_path = f"/api/v1/sessions/{SESSION}/tasks"
    writers.go()

    def begun() -> list[str]:
        answer = one.client.get(tasks_path)
        found = [task["id"] for task in answer.json] if answer.status == 200 else []
        return found if len(found) == WRITERS else []

    ids = wait_until(begun, 20, "all tasks")
    with ThreadPoolExecutor(2 * WRITERS) as pool:
        live = [[pool.submit(events, reader.client, task_id) for task_id in ids] for reader in (one, other)]
        assert sorted(writers.tasks) == sorted(ids)
        seen_by_one, seen_by_other = ([future.result(60) for future in reader] for reader in live)

    assert seen_by_one == seen_by_other == [events(other.client, task_id) for task_id in ids]
    names = set()
    for task_id, told in zip(ids, seen_by_one, strict=True):
        epochs, numbers = zip(*(str(cursor).split("-") for cursor, _, _ in told), strict=True)
        assert len(set(epochs)) == 1
        assert [int(number) for number in numbers] == list(range(1, COUNT + 2))
        assert [data["number"] for _, type, data in told if type == "number"] == list(range(1, COUNT + 1))
        assert told[-1][1:] == (
            "end",
            {"state": "completed", "errorType": None, "errorMessage": None, "taskId": task_id},
        )
        names |= {data["writer"] for _, type, data in told if type == "number"}
    assert names == {f"w{number}" for number in range(WRITERS)}
    assert len({told[0][0] for told in seen_by_one}) == WRITERS, "Two tasks have one epoch."

    stored = turns(one.client)
    assert stored == turns(other.client)
    assert [turn["position"] for turn in stored] == list(range(WRITERS * COUNT))
    for name in names:
        own = [turn["content"] for turn in stored if turn["content"].startswith(f"{name} ")]
        assert own == [f"{name} {number}" for number in range(1, COUNT + 1)]
    assert one.client.get(f"/api/v1/sessions/{SESSION}").json["messageCount"] == WRITERS * COUNT
