"""What an app has of the package, and what each process has of it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask

from flask_sessionstatus import InvalidValue, Run, SessionStatus, StoreUnavailable, TaskState
from flask_sessionstatus import state as state_module
from flask_sessionstatus.extension import current_sessionstatus

# A job that leaves by SystemExit ends its thread; pytest tells of that in whichever test comes next.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

THREADS = 8


@pytest.fixture
def sessionstatus() -> SessionStatus:
    return SessionStatus(identify=lambda: "u1")


@pytest.fixture
def app(sessionstatus: SessionStatus) -> Flask:
    app = Flask("host")
    app.config["SESSIONSTATUS_STORAGE_URI"] = "memory://"
    sessionstatus.init_app(app)
    return app


def test_the_first_requests_of_a_process_share_one_engine(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    state = app.extensions["sessionstatus"]
    together = threading.Barrier(THREADS)
    make_store = state_module.store_from_uri

    def slowly(*args: object, **options: object) -> object:
        threading.Event().wait(0.02)
        return make_store(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(state_module, "store_from_uri", slowly)

    def first() -> object:
        together.wait(10)
        return state.engine

    with ThreadPoolExecutor(THREADS) as pool:
        engines = [future.result() for future in [pool.submit(first) for _ in range(THREADS)]]
    assert len({id(engine) for engine in engines}) == 1


def test_the_present_apps_sessionstatus_is_known_where_only_the_app_is(
    app: Flask, sessionstatus: SessionStatus
) -> None:
    with app.app_context():
        assert current_sessionstatus() is sessionstatus
    with pytest.raises(RuntimeError, match="app context"):
        current_sessionstatus()
    with Flask("bare").app_context(), pytest.raises(RuntimeError, match="init_app"):
        current_sessionstatus()


def test_work_is_not_begun_in_a_process_that_is_ending(app: Flask, sessionstatus: SessionStatus) -> None:
    app.extensions["sessionstatus"].engine.shutdown(1)
    with app.app_context(), pytest.raises(StoreUnavailable), sessionstatus.run("c1", namespace_id="u1"):
        pass


def test_an_app_that_was_shut_down_can_be_used_again(app: Flask, sessionstatus: SessionStatus) -> None:
    with app.app_context():
        assert sessionstatus.shutdown(1)
        with sessionstatus.run("c1", "s1", namespace_id="u1") as run:
            run.emit("token", {})
        task = sessionstatus.sessions.get("s1")
    assert task is not None
    assert task.status == "completed"


def test_a_job_behind_one_that_ends_its_thread_still_runs(app: Flask, sessionstatus: SessionStatus) -> None:
    app.config["SESSIONSTATUS_BACKGROUND_WORKERS"] = 1
    done = threading.Event()
    app.extensions["sessionstatus"].pool._workers = 1

    @sessionstatus.background()
    def leave(run: Run) -> None:
        raise SystemExit

    @sessionstatus.background()
    def work(run: Run) -> None:
        done.set()

    with app.app_context():
        left = leave.with_options(namespace_id="u1").start("c1")
        work.with_options(namespace_id="u1").start("c2")
        assert done.wait(10)
        task = app.extensions["sessionstatus"].store.task(left.session_id, left.task_id)
    assert (task.state, task.error_type) == (TaskState.ERROR, "SystemExit")


def test_a_run_whose_entering_is_broken_off_ends(app: Flask, sessionstatus: SessionStatus) -> None:
    with app.app_context():
        run = sessionstatus.run("c1", "s1", namespace_id="u1")

        def broken() -> None:
            raise KeyboardInterrupt

        run.start = broken  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt), run:
            pass
        task = app.extensions["sessionstatus"].store.task("s1", run.task_id)
    assert task.state is TaskState.ERROR


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"if_running": "stop"}, "if_running is allow, reject or replace, not 'stop'"),
        ({"wire": "xml"}, "wire is sse or ai-sdk, not 'xml'"),
        ({"type": "two words"}, "1 to 64 letters"),
        ({"idempotency_key": ""}, "idempotencyKey"),
    ],
)
def test_a_wrong_option_is_refused_where_it_is_written(
    sessionstatus: SessionStatus, options: dict[str, str], said: str
) -> None:
    with pytest.raises(InvalidValue, match=said):
        sessionstatus.background(**options)
    with pytest.raises(InvalidValue, match=said):
        sessionstatus.background()(len).with_options(**options)  # type: ignore[arg-type]


def test_an_unknown_option_is_refused_with_those_that_there_are(sessionstatus: SessionStatus) -> None:
    said = "There is no option sessionid: type, session_id, namespace_id, wire, if_running, idempotency_key, metadata"
    with pytest.raises(TypeError, match=said):
        sessionstatus.background(sessionid="s1")
    with pytest.raises(TypeError, match=said):
        sessionstatus.background()(len).with_options(sessionid="s1")  # type: ignore[arg-type]
