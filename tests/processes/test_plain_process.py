"""A process without a server: it works, is told to end, and ends what it did."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from harness import whole_log

from flask_sessionstatus.models import TaskState
from flask_sessionstatus.stores import Limits, store_from_uri
from flask_sessionstatus.stores.base import TaskRef

WORKER = Path(__file__).with_name("worker.py")
BEGIN = """
import os, signal, time
from flask import Flask
from flask_sessionstatus import SessionStatus
from flask_sessionstatus.shutdown import leave_sigterm

apps = []

def begin_work():
    apps.append(Flask("host"))
    apps[-1].config["SESSIONSTATUS_STORAGE_URI"] = "memory://"
    with apps[-1].app_context():
        run = SessionStatus(apps[-1]).run("c1")
        run.begin()
    return run
"""


def test_a_process_that_sigterm_ends_by_default_first_ends_its_tasks_and_stores_what_they_emitted(
    storage: str, conversation_id: str
) -> None:
    environment = {**os.environ, "FLASK_SESSIONSTATUS_STORAGE_URI": storage}
    worker = subprocess.Popen(
        [sys.executable, str(WORKER), conversation_id], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert worker.stdout is not None
        session_id, task_id = worker.stdout.readline().split()
        worker.terminate()
        assert worker.wait(10) == -signal.SIGTERM
        emitted = int(worker.stdout.readline())
    finally:
        worker.kill()
        worker.wait(10)
        worker.stdout.close()

    store = store_from_uri(storage, Limits())
    page = whole_log(store, TaskRef(conversation_id, session_id, task_id))
    assert page is not None
    assert (page.task.state, page.task.error_type) == (TaskState.ERROR, "Shutdown")
    assert [event.data for event in page.events[:-1]] == [{"number": n} for n in range(1, emitted + 1)]
    assert page.events[-1].type == "end"
    store.close()


def ends_by_sigterm(script: str) -> tuple[str, int]:
    """What a process says that is told to end in its script, and its exit status."""
    done = subprocess.run([sys.executable, "-c", BEGIN + script], capture_output=True, text=True, timeout=20)
    return done.stdout.strip(), done.returncode


def test_a_worker_that_ends_its_work_first_keeps_its_own_handler_of_sigterm() -> None:
    script = """
signal.signal(signal.SIGTERM, lambda *_: print("the worker knows"))
run = begin_work()
leave_sigterm()
os.kill(os.getpid(), signal.SIGTERM)
run.emit("token")
print(run.task.state)
"""
    assert ends_by_sigterm(script) == ("the worker knows\nrunning", 0)


def test_a_forked_child_with_an_app_of_its_own_ends_by_sigterm_too() -> None:
    script = """
begin_work()
if os.fork() == 0:
    begin_work()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(20)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    assert ends_by_sigterm(script) == ("-15", 0)
