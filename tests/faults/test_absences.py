"""F9, F10, F18: Redis is away for two leases while several processes work: that is all that is said, and nothing is
lost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest
from faults.conftest import Started, hear, say
from faults.followers import Follower
from faults.stores import FaultyRedis
from processes.client import Client, wait_until
from processes.gunicorns import Gunicorn

LEASE, HEARTBEAT = 2.0, 0.5
WORKERS, TASKS, NUMBERS = 3, 3, 5
CALM = 1.5
SETTINGS = {
    "LEASE": LEASE,
    "HEARTBEAT": HEARTBEAT,
    "STORAGE_OPTIONS": '{"socket_timeout": 0.25, "socket_connect_timeout": 0.25}',
}


class Paused:
    """SIGSTOP and SIGCONT: it answers nobody."""

    persistent = False

    def go_away(self, server: FaultyRedis) -> None:
        server.pause()

    def come_back(self, server: FaultyRedis) -> None:
        server.go_on()


class Restarted:
    """kill -9, and a start."""

    def __init__(self, persistent: bool) -> None:
        self.persistent = persistent

    def go_away(self, server: FaultyRedis) -> None:
        server.kill()

    def come_back(self, server: FaultyRedis) -> None:
        server.start()


ABSENCES = {"paused": Paused(), "back-with-its-data": Restarted(True), "back-empty": Restarted(False)}


@pytest.fixture(params=ABSENCES)
def absence(request: pytest.FixtureRequest) -> Paused | Restarted:
    return ABSENCES[request.param]


@pytest.fixture
def away(absence: Paused | Restarted) -> Iterator[FaultyRedis]:
    server = FaultyRedis(persistent=absence.persistent).start()
    yield server
    server.remove()


class Task:
    """One of the tasks that run, and the routes on which something is said of it."""

    def __init__(self, conversation_id: str, session_id: str, task_id: str) -> None:
        base = f"/api/v1/conversations/{conversation_id}"
        self.status, self.session = f"{base}/task-status", f"{base}/active-session"
        self.task = f"/api/v1/sessions/{session_id}/tasks/{task_id}"
        self.tasks, self.events = f"/api/v1/sessions/{session_id}/tasks", f"{self.task}/events"
        self.stream = f"{base}/resume/{session_id}"

    @property
    def routes(self) -> Sequence[str]:
        return self.status, self.session, self.task, self.tasks, self.events


class Watch:
    """Asks for every task, again and again, and counts the answers: `said` by route and state, `refused` by status."""

    def __init__(self, client: Client, tasks: Sequence[Task]) -> None:
        self._client = client
        self._tasks = tasks
        self.said: Counter[tuple[str, object]] = Counter()
        self.refused: Counter[int] = Counter()

    def look(self) -> None:
        for task in self._tasks:
            self._ask("status", task.status, "isActive")
            self._ask("session", task.session, "status")
            self._ask("task", task.task, "state")

    def _ask(self, name: str, path: str, key: str) -> None:
        answer = self._client.get(path)
        if answer.status == 200:
            self.said[name, answer.json[key]] += 1
        else:
            self.refused[answer.status] += 1


def the_tasks(worker: Started, conversations: Sequence[str]) -> list[Task]:
    ids = hear(worker).split()
    return [Task(name, *ids[2 * n : 2 * n + 2]) for n, name in enumerate(conversations)]


@pytest.mark.slow
def test_nothing_is_lost_or_unknown_and_every_completion_arrives(
    absence: Paused | Restarted,
    away: FaultyRedis,
    serve: Callable[..., Gunicorn],
    script: Callable[..., Started],
) -> None:
    settings = {"STORAGE_URI": away.url, **SETTINGS}
    asked, idle = (serve("--threads", "32", **settings).client for _ in range(2))
    names = [[f"c{worker}.{n}" for n in range(TASKS)] for worker in range(WORKERS)]
    workers = [script("laborer.py", *conversations, **settings) for conversations in names]
    tasks = [task for worker, own in zip(workers, names, strict=True) for task in the_tasks(worker, own)]
    followers = [Follower([asked], task.stream) for task in tasks]
    order(workers, f"emit {NUMBERS}")
    for client in (asked, idle):
        assert {client.get(route).status for task in tasks for route in task.routes} == {200}

    absence.go_away(away)
    gone_at = time.monotonic()
    for route in tasks[0].routes:
        answer = asked.get(route)
        assert (route, answer.status) == (route, 503)
        assert int(answer.headers["Retry-After"]) >= 1
    stream = asked.get(tasks[0].stream, Accept="text/event-stream")
    assert (stream.status, stream.body) == (200, b"retry: 1000\n")
    order(workers, f"emit {NUMBERS}")
    # The first worker's tasks end while nobody can be told.
    order(workers[:1], "end")
    meanwhile = set()
    while time.monotonic() - gone_at < 2 * LEASE:
        meanwhile.add(asked.get(tasks[0].status).status)
    assert meanwhile == {503}

    absence.come_back(away)
    back_at = time.monotonic()
    watches = [Watch(client, tasks) for client in (idle, asked)]
    while time.monotonic() - back_at < LEASE + CALM:
        for watch in watches:
            watch.look()
    order(workers, f"emit {NUMBERS}", but=1)
    order(workers[1:], "end")
    for client in (asked, idle):
        wait_until(lambda client=client: completed(client, tasks), 5, "every completion")

    for watch in watches:
        print(dict(watch.said), dict(watch.refused))  # noqa: T201
        assert set(watch.refused) <= {503}
        said = set(watch.said)
        assert {state for name, state in said if name == "task"} <= {"running", "completed"}
        assert {state for name, state in said if name == "session"} <= {"active", "completed"}
    for number, follower in enumerate(followers):
        follower.join(5)
        assert follower.refused == follower.gaps == []
        assert follower.numbers == list(range(NUMBERS * (2 if number < TASKS else 3)))
        assert [end.data["state"] for end in follower.ends] == ["completed"]


def order(workers: Sequence[Started], line: str, but: int = 0) -> None:
    """Have some of the workers do something, and wait until each has done it."""
    for worker in workers[but:]:
        say(worker, line)
    for worker in workers[but:]:
        assert hear(worker) in ("0 stopped", "ended")


def completed(client: Client, tasks: Sequence[Task]) -> bool:
    return all(client.get(task.task).json["state"] == "completed" for task in tasks)
