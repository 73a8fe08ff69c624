"""The host application of README.md, typed into an empty folder beside the wheel."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from processes.client import Client
from readme.blocks import blocks

ANSWER = "You asked: Why? This is where a model would answer, word by word."


def test_what_is_imported_is_the_wheel(python: Path, folder: Path, environment: dict[str, str]) -> None:
    command = [str(python), "-c", "import flask_sessionstatus; print(flask_sessionstatus.__file__)"]
    imported = subprocess.check_output(command, cwd=folder, env=environment, text=True).strip()
    assert python.parents[1] in Path(imported).parents


def test_it_starts_work_tells_what_runs_and_streams_it_to_the_end(host: Callable[..., Client]) -> None:
    client = host()
    base = client.conversation("c1")
    assert client.get(f"{base}/active-session").status == 404
    started = client.post("/ask/c1", question="Why?")
    assert started.status == 202
    active = client.get(f"{base}/active-session").json
    assert (active["sessionId"], active["status"]) == (started.json["sessionId"], "active")
    with client.stream(f"{base}/stream") as stream:
        frames = list(stream)
    assert "".join(frame.data["text"] for frame in frames if frame.type == "token").strip() == ANSWER
    assert [frame.data["state"] for frame in frames if frame.type == "end"] == ["completed"]
    assert frames[-1].type == "end"
    assert {frame.data["total"] for frame in frames if frame.type == "status" and frame.data["total"]} == {13}
    assert client.get(f"{base}/active-session").json["status"] == "completed"
    task = f"/api/v1/sessions/{started.json['sessionId']}/tasks/{started.json['taskId']}"
    assert client.get(f"{task}/result").json == ANSWER


def test_a_client_that_comes_back_gets_what_it_has_not_seen(host: Callable[..., Client]) -> None:
    client = host()
    session_id = client.post("/ask/c1", question="Why?").json["sessionId"]
    path = f"{client.conversation('c1')}/resume/{session_id}"
    seen, last, connections = [], "0-0", 0
    while last is not None:
        connections += 1
        with client.stream(path, {"Last-Event-ID": last}) as stream:
            if stream.status == 204:
                break
            for frame in stream:
                if frame.type == "token":
                    seen.append(frame.data["text"])
                if frame.id is not None:
                    last = frame.id
                    break
    assert "".join(seen).strip() == ANSWER
    assert connections == len(seen) + 2


def test_it_stops_when_asked_to(host: Callable[..., Client]) -> None:
    client = host()
    base = client.conversation("c1")
    client.post("/ask/c1", question="Why?")
    with client.stream(f"{base}/stream") as stream:
        frames = []
        for frame in stream:
            frames.append(frame)
            if frame.type == "token" and len(frames) < 5:
                client.post(f"{base}/stop")
    assert frames[-1].data["state"] == "cancelled"
    assert len([frame for frame in frames if frame.type == "token"]) < 13
    assert client.post(f"{base}/stop").status == 404


CHECKS = {
    "background": """
import json
again = None
with app.app_context():
    again = once.start("c1", ["one", "two"])
assert again.task_id == task.task_id
with app.app_context():
    store = sessionstatus.state.store
    while store.task(task.session_id, task.task_id).state.live:
        time.sleep(0.01)
    assert store.task(task.session_id, task.task_id).state == "completed"
    assert json.loads(store.result(task.session_id, task.task_id)) == {"pages": 2}
""",
    "run": """
with app.app_context():
    task = sessionstatus.state.store.task(run.session_id, run.task_id)
    assert (task.state, task.progress.current, task.tail) == ("completed", 10, 11)
""",
    "queue": """
my_queue = type("Queue", (list,), {"put": lambda self, message, delay=0: self.append(message)})()
answers = iter([ConnectionError(), "found"])
def find_answer(question):
    answer = next(answers)
    if isinstance(answer, Exception):
        raise answer
    return answer
sessionstatus.hooks.identify = None
with app.app_context():
    task, stopped = ask_later("c1", "Why?"), ask_later("c2", "Why?")
    sessionstatus.cancel(stopped)
    store = sessionstatus.state.store
    assert store.task(task.session_id, task.task_id).state == "pending"
handle(my_queue.pop(0))
handle(my_queue.pop(0))
with app.app_context():
    waiting = store.task(task.session_id, task.task_id)
    assert (waiting.state, waiting.attempt) == ("pending", 2)
handle(my_queue[0])
handle(my_queue[0])
with app.app_context():
    from flask_sessionstatus.models import ORIGIN
    from flask_sessionstatus.stores.base import TaskRef
    page = store.events(TaskRef("c1", task.session_id, task.task_id), ORIGIN, 9)
    assert (page.task.state, page.task.attempt) == ("completed", 2)
    assert [event.data.get("text") for event in page.events] == [None, "found", None]
    assert store.task(stopped.session_id, stopped.task_id).state == "cancelled"
""",
    "celery": """
celery_app.conf.task_always_eager = True
with app.test_client() as client:
    assert client.post("/read/c1").status_code == 202
    (session,) = client.get("/api/v1/sessions").json
    (task,) = client.get(f"/api/v1/sessions/{session['id']}/tasks").json
    assert (task["state"], task["type"], task["progress"]["total"]) == ("completed", "reading", 2)
    result = client.get(f"/api/v1/sessions/{session['id']}/tasks/{task['id']}/result")
    assert result.json == {"pages": 2}
assert not current_run
""",
    "dramatiq": """
@dramatiq.actor
def summarise(text):
    return text.split()[0]
sessionstatus.hooks.identify = None
with app.app_context():
    summarise_soon("c1", "What it says")
    worker = dramatiq.Worker(broker, worker_timeout=10)
    worker.start()
    broker.join("default")
    worker.join()
    worker.stop()
    (found,) = sessionstatus.state.store.snapshot("c1").tasks.items()
    task_id, record = found
    assert record["state"] == "completed"
    assert sessionstatus.state.store.result(record["session"], task_id) == '"What"'
""",
    "access": """
def status(path, address):
    return app.test_client().get(f"/api/v1{path}", environ_base={"REMOTE_ADDR": address}).status_code
assert status("/conversations/10.0.0.9:1/active-session", "10.0.0.9") == 404
assert status("/conversations/10.0.0.9:1/active-session", "10.0.0.8") == 403
assert status("/stats", "127.0.0.1") == 200
assert status("/stats", "10.0.0.8") == 403
""",
}


BEFORE = {
    "dramatiq": """
import dramatiq
from dramatiq.brokers.stub import StubBroker
broker = StubBroker()
dramatiq.set_broker(broker)
"""
}


@pytest.mark.parametrize("name", CHECKS)
def test_what_is_added_to_it_works(name: str, python: Path, folder: Path, environment: dict[str, str]) -> None:
    program = folder / "added.py"
    program.write_text(
        f"{blocks()['app.py']}\n{BEFORE.get(name, '')}\n{blocks()[name]}\n{CHECKS[name]}", encoding="utf-8"
    )
    done = subprocess.run(
        [str(python), program.name], cwd=folder, env=environment, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr


def test_its_jobs_are_tracked_by_the_worker_of_rq(
    python: Path, folder: Path, environment: dict[str, str], redis_url: Callable[[str], str]
) -> None:
    url = redis_url("newest")
    (folder / "work.py").write_text("def summarise(text):\n    return text.split()[0]\n", encoding="utf-8")
    begin = f"""
import redis, rq
sessionstatus.hooks.identify = None
queue = rq.Queue("readme", connection=redis.Redis.from_url("{url}"))
"""
    check = f"""
import subprocess, sys
with app.app_context():
    job = summarise_later("c1", "What it says")
    ids = job.meta["sessionstatus"]["session_id"], job.meta["sessionstatus"]["task_id"]
    worker = [sys.executable, "-m", "rq.cli", "worker", "--burst", "--url", "{url}", "readme"]
    subprocess.run([*worker, "--worker-class", "flask_sessionstatus.integrations.rq.Worker"], check=True)
    assert sessionstatus.state.store.task(*ids).state == "completed"
    assert sessionstatus.state.store.result(*ids) == '"What"'
"""
    program = folder / "added.py"
    program.write_text(f"{blocks()['app.py']}\n{begin}\n{blocks()['rq']}\n{check}", encoding="utf-8")
    done = subprocess.run(
        [str(python), program.name],
        cwd=folder,
        env={**environment, "FLASK_APP": "app.py", "FLASK_SESSIONSTATUS_STORAGE_URI": url},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
