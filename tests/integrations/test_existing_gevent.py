"""Another program's sessions under gevent, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("gevent")

SCRIPT = Path(__file__).with_name("existing_greenlets.py")


def test_they_are_found_followed_and_stopped_from_greenlets(empty_redis: Callable[[], str]) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[1]), *filter(None, sys.path)])}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), empty_redis()], env=environment, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
