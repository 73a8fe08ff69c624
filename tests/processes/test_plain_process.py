"""A process without a server: it works, is told to end, and ends what it did."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from flask_sessionstatus.models import ORIGIN, TaskState
from flask_sessionstatus.stores import Limits, store_from_uri
from flask_sessionstatus.stores.base import TaskRef

WORKER = Path(__file__).with_name("worker.py")


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
    page = store.events(TaskRef(conversation_id, session_id, task_id), ORIGIN, 100_000)
    assert page is not None
    assert (page.task.state, page.task.error_type) == (TaskState.ERROR, "Shutdown")
    assert [event.data for event in page.events[:-1]] == [{"number": n} for n in range(1, emitted + 1)]
    assert page.events[-1].type == "end"
    store.close()
