"""gunicorn in a process group of its own, ended by the ids of its processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
from processes.client import Client, wait_until
from servers import free_port

FOLDER = Path(__file__).parent
START_WAIT = 20.0


class Gunicorn:
    """The host application under gunicorn, until it is stopped."""

    def __init__(self, log: Path, settings: Mapping[str, object], *options: str) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.client = Client(self.url)
        self.log = log
        address = self.url.removeprefix("http://")
        command = [sys.executable, "-m", "gunicorn", "--bind", address, "--no-control-socket", *options, "host:app"]
        environment = {
            **os.environ,
            **{f"FLASK_SESSIONSTATUS_{name}": str(value) for name, value in settings.items()},
        }
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=FOLDER, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def wait_until_ready(self) -> Gunicorn:
        wait_until(self._answers, START_WAIT, "gunicorn answers")
        return self

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.client.get("/api/v1/health").status == 200
        except OSError:
            return False

    def terminate(self) -> None:
        """Ask it to end, as a service manager does."""
        self.process.send_signal(signal.SIGTERM)

    def remove(self) -> None:
        """End it and its workers, whatever state they are in."""
        if self.process.poll() is not None:
            return
        workers = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
