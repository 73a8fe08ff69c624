"""While Redis is away: responses say that they come from memory, the unknown is 503, streams are told to come back."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from fallbacks import Rig
from flask import Flask
from flask_smorest import Api
from harness import a_session, a_task, begin, logged, once_available
from hosts import PREFIX, frames

from flask_sessionstatus import ConfigurationError, Run, SessionStatus
from flask_sessionstatus.errors import StoreUnavailable
from flask_sessionstatus.models import ORIGIN, Turn
from flask_sessionstatus.stores import Limits
from flask_sessionstatus.stores.base import TaskRef
from flask_sessionstatus.stores.redis import RedisStore, connect

STREAM = {"Accept": "text/event-stream"}
HEADER = "SessionStatus-Degraded"


@pytest.fixture
def rig(redis_url: Callable[[str], str]) -> Iterator[Rig]:
    rig = Rig(redis_url("newest"))
    yield rig
    rig.close()


class App:
    """A host whose Redis can be taken away."""

    def __init__(self, rig: Rig, mode: str, **config: Any) -> None:
        self.rig = rig
        self.app = Flask("host")
        settings = {"STORAGE_URI": rig.proxy.url, "IN_MEMORY_FALLBACK": True, "HEARTBEAT": 0.2, **config}
        settings["STORAGE_OPTIONS"] = {"socket_timeout": 0.3}
        self.app.config.update({f"SESSIONSTATUS_{name}": value for name, value in settings.items()})
        self.sessionstatus = SessionStatus(identify=lambda: "u1", is_operator=lambda: True)
        if mode == "smorest":
            self.app.config.update(API_TITLE="Host", API_VERSION="1", OPENAPI_VERSION="3.0.3")
        api = Api(self.app) if mode == "smorest" else None
        self.sessionstatus.init_app(self.app)
        (api or self.app).register_blueprint(self.sessionstatus.create_blueprint(), url_prefix=PREFIX)
        self.app.add_url_rule("/own", view_func=lambda: "of the host")
        self.client = self.app.test_client()

        self.elsewhere = RedisStore(connect(rig.url, {}), Limits())
        """As another process has it."""

    def get(self, path: str, **headers: str) -> Any:
        return self.client.get(PREFIX + path, headers=headers)

    @property
    def store(self) -> Any:
        return self.app.extensions["sessionstatus"].store

    def come_back(self) -> None:
        self.rig.proxy.mend()
        assert self.store.hand_over(10)


@pytest.fixture
def host(rig: Rig, mode: str) -> Iterator[App]:
    host = App(rig, mode)
    yield host
    rig.proxy.mend()
    host.app.extensions["sessionstatus"].stop(5)
    host.elsewhere.close()


def test_every_response_of_the_blueprint_says_so_and_no_other(host: App) -> None:
    made = host.client.post(f"{PREFIX}/sessions", json={"conversationId": "c1"})
    assert made.status_code == 201
    assert HEADER not in made.headers
    host.rig.proxy.cut()
    session = f"/sessions/{made.json['id']}"
    for method, path, status in [
        ("GET", session, 200),
        ("PATCH", session, 200),
        ("POST", f"{session}/messages", 422),
        ("GET", "/conversations/c1/active-session", 200),
        ("GET", "/conversations/unknown/active-session", 503),
        ("GET", "/conversations/c1/stream", 503),
        ("GET", "/health", 200),
        ("GET", "/stats", 200),
        ("GET", "/client.js", 200),
        ("POST", "/sessions", 201),
        ("DELETE", session, 200),
    ]:
        response = host.client.open(PREFIX + path, method=method, json={} if method in ("POST", "PATCH") else None)
        assert (response.status_code, response.headers.get(HEADER)) == (status, "memory"), path
    assert HEADER not in host.client.get("/own").headers
    host.come_back()
    assert HEADER not in host.get("/health").headers


def test_messages_that_were_never_read_here_are_503_and_not_none(host: App) -> None:
    host.elsewhere.create_session(a_session("s1", "c1"))
    host.elsewhere.add_turns("s1", [Turn("user", "hello"), Turn("user", "again")], {})
    assert host.get("/sessions/s1").json["messageCount"] == 2
    host.rig.proxy.cut()
    assert host.get("/sessions/s1").json["messageCount"] == 2
    assert host.get("/sessions/s1/messages").status_code == 503
    with host.app.app_context(), pytest.raises(StoreUnavailable):
        host.sessionstatus.sessions.history("s1")


def test_health_and_stats_say_degraded(host: App) -> None:
    assert host.get("/health").json["status"] == "ok"
    host.rig.proxy.cut()
    response = host.get("/health")
    assert (response.status_code, sorted(response.json)) == (200, ["degraded", "latencyMs", "status", "store"])
    assert (response.json["status"], response.json["degraded"], response.json["store"]) == ("degraded", True, "redis")
    stats = host.get("/stats").json
    assert (stats["degraded"], stats["redisAvailable"]) == (True, False)
    host.come_back()
    assert (host.get("/health").json["status"], host.get("/health").json["degraded"]) == ("ok", False)
    stats = host.get("/stats").json
    assert (stats["degraded"], stats["redisAvailable"]) == (False, True)


@pytest.mark.parametrize("path", ["stream", "resume/s1", "resume/s1?cursor=5-5"])
def test_a_stream_of_what_was_seen_idle_is_told_to_come_back_since_something_may_have_begun(
    host: App, path: str
) -> None:
    """204 would end an EventSource for good."""
    session = a_session("s1", "c1", namespace_id="u1")
    host.elsewhere.create_session(session)
    assert host.get("/conversations/c1/active-session").json["status"] == "idle"
    job = begin(host.elsewhere, session, a_task("t1"))
    host.rig.proxy.cut()
    response = host.get(f"/conversations/c1/{path}", **STREAM)
    assert (response.status_code, response.mimetype) == (200, STREAM["Accept"])
    assert b"retry:" in response.data
    assert b"data:" not in response.data
    plain = host.get(f"/conversations/c1/{path}")
    assert (plain.status_code, "Retry-After" in plain.headers) == (503, True)
    host.come_back()
    job.append(["a"])
    job.end()
    assert [frame["event"] for frame in frames(host.get("/conversations/c1/resume/s1", **STREAM).data)] == [
        "token",
        "end",
    ]


def test_the_end_that_a_client_has_is_the_end_also_while_redis_is_away(host: App) -> None:
    session = a_session("s1", "c1", namespace_id="u1")
    job = begin(host.store, session, a_task("t1"))
    job.end()
    stream = host.get("/conversations/c1/resume/s1", **STREAM)
    end = frames(stream.data)[-1]["id"]
    host.rig.proxy.cut()
    assert host.get(f"/conversations/c1/resume/s1?cursor={end}", **STREAM).status_code == 204
    assert host.get(f"/conversations/c1/stream?cursor={end}", **STREAM).status_code == 204


def test_what_is_not_known_is_503_and_never_404(host: App) -> None:
    assert host.get("/sessions/nothing").status_code == 404
    host.rig.proxy.cut()
    for method, path in [
        ("GET", "/sessions/s1"),
        ("GET", "/sessions/s1/messages"),
        ("GET", "/sessions/s1/tasks"),
        ("GET", "/sessions/s1/tasks/t1"),
        ("GET", "/sessions/s1/tasks/t1/events"),
        ("GET", "/conversations/c1/active-session"),
        ("GET", "/conversations/c1/task-status"),
        ("GET", "/conversations/c1/stream"),
        ("GET", "/conversations/c1/resume/s1"),
        ("POST", "/conversations/c1/stop"),
        ("DELETE", "/sessions/s1"),
    ]:
        response = host.client.open(PREFIX + path, method=method)
        assert response.status_code == 503, path
        assert int(response.headers["Retry-After"]) >= 1
    for path in ("/conversations/c1/stream", "/conversations/c1/resume/s1", "/sessions/s1/tasks/t1/events"):
        response = host.get(path, **STREAM)
        assert (response.status_code, response.data) == (200, b"retry: 1000\n")


def test_what_was_deleted_meanwhile_is_known_to_be_gone(host: App) -> None:
    made = host.client.post(f"{PREFIX}/sessions", json={"conversationId": "c1"})
    path = f"/sessions/{made.json['id']}"
    host.rig.proxy.cut()
    assert host.client.delete(PREFIX + path).status_code == 200
    assert host.get(path).status_code == 404
    assert host.client.delete(PREFIX + path).status_code == 404
    with host.app.app_context():
        assert host.sessionstatus.sessions.get(made.json["id"]) is None
        assert not host.sessionstatus.sessions.delete(made.json["id"])
    host.come_back()
    assert host.get(path).status_code in (404, 503)  # 503 for two heartbeats
    assert host.elsewhere.session(made.json["id"]) is None


def test_the_hosts_own_calls_do_not_call_unknown_what_is_only_not_known(host: App) -> None:
    sessions = host.sessionstatus.sessions
    host.rig.proxy.cut()
    host.get("/health")
    with host.app.app_context():
        for call in (
            lambda: sessions.get("s1"),
            lambda: sessions.add_turn("s1", "user", "x"),
            lambda: sessions.turns("s1"),
            lambda: sessions.update("s1", metadata={"a": 1}),
            lambda: sessions.update("s1"),
            lambda: sessions.slots("s1"),
            lambda: sessions.delete("s1"),
        ):
            with pytest.raises(Exception, match="not known at this time"):
                call()
        made = sessions.get_or_create("s1", namespace_id="u1")
        assert made.conversation_id == "s1"
        sessions.add_turn("s1", "user", "x")
        assert [turn.content for turn in sessions.turns("s1")] == ["x"]


def test_the_stream_of_a_task_of_another_process_is_told_to_come_back(host: App) -> None:
    foreign = begin(host.elsewhere, a_session("s1", "c1", "u1"), a_task("t1"))
    foreign.append(["a"])
    tasks = [begin(host.elsewhere, a_session("s2", "c2", "u1"), a_task("t2", wire="ai-sdk"))]
    for conversation_id in ("c1", "c2"):
        assert host.get(f"/conversations/{conversation_id}/active-session").status_code == 200
    assert host.get("/sessions/s1").status_code == 200
    host.rig.proxy.cut()
    status = host.get("/conversations/c1/active-session")
    assert (status.json["status"], status.json["cursor"]) == ("active", str(foreign.task.cursor))
    for path in ("/conversations/c1/stream", "/conversations/c1/resume/s1", "/sessions/s1/tasks/t1/events"):
        response = host.get(path, **STREAM)
        assert (response.status_code, response.data) == (200, b"retry: 1000\n"), path
    assert host.get("/sessions/s1/tasks/t1/events").status_code == 503
    assert host.get("/conversations/c2/stream", **STREAM).status_code == 503
    stopped = host.client.post(f"{PREFIX}/conversations/c1/stop")
    assert (stopped.status_code, stopped.json["state"]) == (202, "running")
    host.come_back()
    assert foreign.beat().cancel_requested_at is not None
    assert tasks[0].beat().cancel_requested_at is None
    foreign.end("cancelled")
    stream = host.get("/conversations/c1/resume/s1", **STREAM)
    assert [frame.get("event") for frame in frames(stream.data) if frame.get("event") != "status"] == ["token", "end"]


def test_a_task_elsewhere_that_looks_lost_ends_no_stream_for_good(host: App) -> None:
    foreign = begin(host.elsewhere, a_session("s1", "c1", "u1"), a_task("t1"))
    foreign.append(["a"])
    assert host.get("/conversations/c1/active-session").status_code == 200
    known = host.store._mirror.conversation("c1").tasks["t1"]
    known["deadline"] = known["created"]  # seen last so long ago that it looks lost
    cursor = str(foreign.task.cursor)
    host.rig.proxy.cut()
    response = host.get(f"/conversations/c1/resume/s1?cursor={cursor}", **STREAM)
    assert (response.status_code, response.data) == (200, b"retry: 1000\n")
    host.come_back()


def test_a_follower_goes_through_both_switches_with_every_event_once(host: App) -> None:
    steps = [threading.Event() for _ in range(4)]

    @host.sessionstatus.background()
    def work(run: Run) -> None:
        for number, step in enumerate(steps):
            assert step.wait(10)
            for n in range(10):
                run.emit("number", number * 10 + n)
        run.result("done")

    got: list[Any] = []

    def follow(path: str) -> None:
        response = host.client.get(PREFIX + path, headers=STREAM)
        for chunk in response.response:
            got.extend(frames(chunk))

    def wait_for(count: int) -> None:
        until = time.monotonic() + 10
        while len(numbers()) < count:
            assert time.monotonic() < until, numbers()
            time.sleep(0.005)

    def numbers() -> Sequence[Any]:
        return [frame["data"] for frame in got if frame.get("event") == "number"]

    with host.app.app_context():
        task = work.with_options(namespace_id="u1").start("c1")
    follower = threading.Thread(target=follow, args=(f"/conversations/c1/resume/{task.session_id}",), daemon=True)
    follower.start()
    steps[0].set()
    wait_for(10)
    host.rig.proxy.cut()
    steps[1].set()
    wait_for(20)
    assert host.store.degraded
    steps[2].set()
    wait_for(30)
    host.come_back()
    steps[3].set()
    follower.join(10)
    assert not follower.is_alive()
    assert numbers() == list(range(40))
    assert got[-1]["event"] == "end"
    assert [frame for frame in got if frame.get("event") == "gap"] == []
    page = host.elsewhere.events(TaskRef("c1", task.session_id, task.task_id), ORIGIN, 1000)
    assert page is not None
    assert [json.loads(event.json) for event in page.events[:-1]] == list(range(40))
    assert host.elsewhere.result(task.session_id, task.task_id) == '"done"'


def test_a_process_that_ends_meanwhile_tries_to_hand_over_as_long_as_it_may(
    host: App, caplog: pytest.LogCaptureFixture
) -> None:
    host.get("/health")
    host.rig.proxy.cut()
    with host.app.app_context():
        host.sessionstatus.sessions.create("c1", "s1", namespace_id="u1")
        threading.Timer(0.5, host.rig.proxy.mend).start()
        assert host.sessionstatus.shutdown(5)
    assert host.elsewhere.session("s1") is not None
    assert "is lost" not in logged(caplog.records)


def test_a_process_that_ends_without_its_redis_says_what_is_lost(host: App, caplog: pytest.LogCaptureFixture) -> None:
    host.get("/health")
    host.rig.proxy.cut()
    with host.app.app_context():
        host.sessionstatus.sessions.create("c1", "s1", namespace_id="u1")
        began = time.monotonic()
        assert not host.sessionstatus.shutdown(0.5)
        assert time.monotonic() - began < 3
    assert [record.levelno for record in caplog.records if "is lost with this process" in record.getMessage()] == [
        logging.ERROR
    ]
    host.rig.proxy.mend()
    once_available(lambda: host.elsewhere.ping())
    assert host.elsewhere.session("s1") is None


def test_without_the_setting_it_is_503_as_ever(rig: Rig, mode: str) -> None:
    host = App(rig, mode, IN_MEMORY_FALLBACK="false")
    rig.proxy.cut()
    response = host.client.post(f"{PREFIX}/sessions")
    assert (response.status_code, response.headers.get(HEADER)) == (503, None)
    assert host.get("/health").status_code == 503
    rig.proxy.mend()
    host.app.extensions["sessionstatus"].stop(5)


@pytest.mark.parametrize("uri", ["memory://", None])
def test_it_is_refused_where_there_is_no_redis_that_could_be_away(uri: str | None) -> None:
    app = Flask("host")
    app.config.update(SESSIONSTATUS_STORAGE_URI=uri, SESSIONSTATUS_IN_MEMORY_FALLBACK="true")
    with pytest.raises(ConfigurationError, match="SESSIONSTATUS_IN_MEMORY_FALLBACK"):
        SessionStatus(app)
