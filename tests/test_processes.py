"""F23: several processes on a store in memory are noticed, and it is said loudly, once in each."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from harness import NOWHERE, logged

from flask_sessionstatus import SessionStatus

Make = Callable[..., Flask]

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)


@pytest.fixture
def make_app() -> Iterator[Make]:
    made: list[Flask] = []

    def make(uri: str | None = "memory://") -> Flask:
        app = Flask("host")
        app.config["SESSIONSTATUS_STORAGE_URI"] = uri
        sessionstatus = SessionStatus(app, identify=lambda: "u1", is_operator=lambda: True)
        app.register_blueprint(sessionstatus.create_blueprint(), url_prefix="/api/v1")
        made.append(app)
        return app

    yield make
    for app in made:
        app.extensions["sessionstatus"].stop(1)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def health(app: Flask, **environ: Any) -> Any:
    response = app.test_client().get("/api/v1/health", environ_overrides=environ)
    assert response.status_code == 200
    assert sorted(response.json) == ["degraded", "latencyMs", "status", "store"]
    return response.json


@pytest.mark.parametrize("uri", ["memory://", None])
def test_web_concurrency_is_noticed_when_the_app_starts(
    make_app: Make, uri: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    app = make_app(uri)
    (said,) = errors(caplog)
    assert said.startswith("WEB_CONCURRENCY is 4, and each process keeps its own sessions in its own memory")
    assert "SESSIONSTATUS_STORAGE_URI=redis://" in said
    for _ in range(2):
        found = health(app)
        assert (found["status"], found["store"], found["degraded"]) == ("degraded", "memory", True)
    assert app.test_client().get("/api/v1/stats").json["degraded"] is True  # type: ignore[index]
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize("value", ["1", "", "many", "0"])
def test_one_process_is_no_reason(
    make_app: Make, value: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", value)
    found = health(make_app())
    assert (found["status"], found["degraded"]) == ("ok", False)
    assert errors(caplog) == []


def test_several_processes_on_redis_are_as_it_should_be(
    make_app: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    make_app(NOWHERE)
    assert errors(caplog) == []


@pytest.mark.parametrize(("processes", "divided"), [(4, True), (1, False)])
def test_uwsgi_says_how_many_processes_it_runs(
    make_app: Make,
    processes: int,
    divided: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """There is a module of that name within uWSGI and nowhere else; this stands for it."""
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(numproc=processes))  # type: ignore[arg-type]
    monkeypatch.setenv("WEB_CONCURRENCY", "9")  # which uWSGI does not read
    assert health(make_app())["degraded"] is divided
    assert [said.split(",")[0] for said in errors(caplog)] == ["uWSGI runs 4 processes"] * divided


def test_whatever_server_says_so_with_a_request_is_believed(make_app: Make, caplog: pytest.LogCaptureFixture) -> None:
    app = make_app()
    assert health(app, **{"wsgi.multiprocess": False})["degraded"] is False
    assert health(app, **{"wsgi.multiprocess": True})["degraded"] is True
    assert health(app, **{"wsgi.multiprocess": True})["degraded"] is True
    (said,) = errors(caplog)
    assert said.startswith("The server runs this app in several processes, and each")


def in_child(call: Callable[[], bool]) -> bool:
    """What a call gives in a forked child that lives until it is answered."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, b"1" if call() else b"0")
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as said:
        answer = said.read()
    os.waitpid(pid, 0)
    assert answer in (b"0", b"1")
    return answer == b"1"


def test_a_child_sees_that_its_parent_used_the_store_before_the_fork(
    make_app: Make, caplog: pytest.LogCaptureFixture
) -> None:
    state = make_app().extensions["sessionstatus"]
    assert state.engine is not None

    def in_use() -> bool:
        assert state.engine is not None
        return bool(state.divided) and f"Process {os.getppid()} was forked with this app" in logged(caplog.records)

    assert in_child(in_use)
    assert not state.divided  # the child has ended


def test_the_first_of_several_children_learns_of_the_others(make_app: Make) -> None:
    state = make_app().extensions["sessionstatus"]

    def in_use() -> bool:
        assert state.engine is not None
        before = state.divided
        second = in_child(lambda: state.engine is not None and state.divided)
        return not before and second

    assert in_child(in_use)


def test_a_child_alone_is_alone(make_app: Make, caplog: pytest.LogCaptureFixture) -> None:
    """As with `gunicorn --preload --workers 1`: the app is made in a process that serves nobody."""
    state = make_app().extensions["sessionstatus"]

    def alone() -> bool:
        assert state.engine is not None
        return not state.divided and errors(caplog) == []

    assert in_child(alone)


def test_a_worker_is_alone_once_the_one_that_it_replaces_has_ended(
    make_app: Make, caplog: pytest.LogCaptureFixture
) -> None:
    state = make_app().extensions["sessionstatus"]

    def new_worker() -> bool:
        assert state.engine is not None
        in_use, says = os.pipe()
        waits, ending = os.pipe()
        old = os.fork()
        if old == 0:
            try:
                assert state.engine is not None
                os.close(ending)
                os.write(says, b"1")
                os.read(waits, 1)
            finally:
                os._exit(0)
        os.read(in_use, 1)
        beside = [state.divided, state.degraded]
        os.close(ending)
        os.waitpid(old, 0)
        return beside == [True, True] and not state.degraded and not state.divided and len(errors(caplog)) == 1

    assert in_child(new_worker)
