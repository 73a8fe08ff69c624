"""Work in greenlets; each case in a process of its own, which gevent has patched."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flask_sessionstatus import TaskState
from flask_sessionstatus.stores import Limits, store_from_uri

pytest.importorskip("gevent")

GREENLETS = Path(__file__).with_name("greenlets.py")
PREFIXES = ("is_", "waits_", "stops_")
CASES = [
    node.name
    for node in ast.parse(GREENLETS.read_text(encoding="utf-8")).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith(PREFIXES)
]
LEASE, HEARTBEAT = 1.0, 0.25
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(GREENLETS.parents[1]), os.environ.get("PYTHONPATH", "")]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_greenlet(case: str) -> None:
    lease = [str(LEASE), str(HEARTBEAT)] if "lost" in case else []
    done = subprocess.run(
        [sys.executable, str(GREENLETS), case, "memory://", *lease],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert done.returncode == 0, done.stderr


def test_a_greenlet_that_computes_for_three_leases_is_not_lost(empty_redis: Callable[[], str]) -> None:
    url = empty_redis()
    store = store_from_uri(url, Limits(lease=round(LEASE * 1000), heartbeat=round(HEARTBEAT * 1000)))
    command = [sys.executable, str(GREENLETS), "computes", url, str(LEASE), str(HEARTBEAT)]
    process = subprocess.Popen(
        command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        session_id, task_id = process.stdout.readline().split()
        began, seen, left = time.monotonic(), set(), []
        while time.monotonic() - began < 2.9:
            task = store.task(session_id, task_id)
            assert task is not None
            seen.add(task.state)
            left.append((task.deadline or 0) - store.snapshot("c1").now)
            time.sleep(0.02)
        print(f"least left of a lease of {LEASE:g} s: {min(left)} ms")  # noqa: T201
        assert seen == {TaskState.RUNNING}
        assert process.stdout.readline() == "done\n"
        process.stdin.close()
        assert process.wait(10) == 0
        task = store.task(session_id, task_id)
        assert task is not None
        assert task.state is TaskState.COMPLETED
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        store.close()
