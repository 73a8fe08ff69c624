"""The host application under gunicorn, or under `flask run`: processes that are ended by their ids."""

from __future__ import annotations

import contextlib
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
from processes.client import Client, wait_until
from servers import Certificate, free_port

FOLDER = Path(__file__).parent
START_WAIT = 20.0


class Server:
    """The host application of a folder under a server, until it is stopped; `tls` is how its clients trust it."""

    def __init__(
        self,
        log: Path,
        settings: Mapping[str, object],
        folder: Path,
        port: int,
        *command: str,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{port}"
        self.client = Client(self.url, context=tls)
        self.log = log
        environment = {
            **os.environ,
            **{f"FLASK_SESSIONSTATUS_{name}": str(value) for name, value in settings.items()},
        }
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def wait_until_ready(self) -> None:
        wait_until(self._answers, START_WAIT, "the server answers")

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


class Gunicorn(Server):
    """gunicorn, with options of its own; with a `certificate` it ends TLS itself."""

    def __init__(
        self,
        log: Path,
        settings: Mapping[str, object],
        *options: str,
        folder: Path = FOLDER,
        certificate: Certificate | None = None,
    ) -> None:
        port = free_port()
        command = ["gunicorn", "--bind", f"127.0.0.1:{port}", "--no-control-socket", *options, "host:app"]
        tls = None
        if certificate is not None:
            command[1:1] = ["--certfile", str(certificate.file), "--keyfile", str(certificate.key)]
            tls = ssl.create_default_context(cafile=str(certificate.file))
        super().__init__(log, settings, folder, port, *command, tls=tls)


class FlaskRun(Server):
    """`flask run`: werkzeug's server, a thread for each connection."""

    def __init__(self, log: Path, settings: Mapping[str, object], folder: Path = FOLDER) -> None:
        port = free_port()
        super().__init__(log, settings, folder, port, "flask", "--app", "host", "run", "--port", str(port))
