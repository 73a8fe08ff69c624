"""A redis-server that can be killed, paused and brought back, and the faults that a generation has to survive."""

from __future__ import annotations

import random
import shutil
import tempfile
import threading
import time
from typing import Protocol

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from servers import Proxy, ServerProcess, free_port, newest

START_WAIT = 10.0


class FaultyRedis(ServerProcess):
    """A redis-server of a test's own; `persistent` keeps its data across a kill."""

    def __init__(self, executable: str | None = None, *, persistent: bool = False) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = tempfile.mkdtemp(prefix="sessionstatus-")
        appendonly = "yes" if persistent else "no"
        settings = {"port": str(self.port), "bind": "127.0.0.1", "save": "", "appendonly": appendonly}
        settings["dir"] = self._folder
        options = [part for name, value in settings.items() for part in (f"--{name}", value)]
        super().__init__([executable or newest(), *options])
        self.client = redis.Redis(port=self.port, socket_timeout=5, retry=Retry(NoBackoff(), 0))

    def start(self) -> FaultyRedis:
        """Start, and wait until it answers."""
        self.launch()
        until = time.monotonic() + START_WAIT
        while True:
            try:
                self.client.ping()
                return self
            except redis.RedisError:
                assert time.monotonic() < until, "redis-server did not start"
                assert self.is_alive, "redis-server ended"
                time.sleep(0.005)

    def remove(self) -> None:
        """End it, whatever state it is in, and remove its folder."""
        self.client.close()
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def used_memory(self) -> int:
        """Bytes."""
        return int(self.client.info("memory")["used_memory"])


class Fault(Protocol):
    """Something that happens to a store again and again; `uris` are what the processes reach it by."""

    uris: tuple[str, str]

    def strike(self, chance: random.Random) -> None:
        """Once: from the moment when it goes away until it is back."""

    def remove(self) -> None: ...


class Killed:
    """kill -9, and a start: with its data, or empty."""

    def __init__(self, *, persistent: bool = False) -> None:
        self.server = FaultyRedis(persistent=persistent).start()
        self.uris = self.server.url, self.server.url

    def strike(self, chance: random.Random) -> None:
        self.server.kill()
        time.sleep(chance.uniform(0, 0.4))
        self.server.start()

    def remove(self) -> None:
        self.server.remove()


class Paused:
    """SIGSTOP for longer than anybody waits for an answer, and SIGCONT."""

    def __init__(self, timeout: float) -> None:
        self.server = FaultyRedis().start()
        self.uris = self.server.url, self.server.url
        self._timeout = timeout

    def strike(self, chance: random.Random) -> None:
        self.server.pause()
        time.sleep(self._timeout * chance.uniform(1.2, 1.8))
        self.server.go_on()

    def remove(self) -> None:
        self.server.remove()


class Forgetful:
    """The scripts are flushed from the server's cache, many times."""

    TIMES = 25

    def __init__(self) -> None:
        self.server = FaultyRedis().start()
        self.uris = self.server.url, self.server.url

    def strike(self, chance: random.Random) -> None:
        for _ in range(self.TIMES):
            self.server.client.script_flush()
            time.sleep(chance.uniform(0, 0.02))

    def remove(self) -> None:
        self.server.remove()


class Cut:
    """The network is cut: for the process that works, for those that read, or for all."""

    def __init__(self) -> None:
        self.server = FaultyRedis().start()
        self._proxies = Proxy(self.server.port), Proxy(self.server.port)
        self.uris = self._proxies[0].url, self._proxies[1].url

    def strike(self, chance: random.Random) -> None:
        some = chance.choice([self._proxies[:1], self._proxies[1:], self._proxies])
        for proxy in some:
            proxy.cut()
        time.sleep(chance.uniform(0.1, 0.5))
        for proxy in some:
            proxy.mend()

    def remove(self) -> None:
        for proxy in self._proxies:
            proxy.close()
        self.server.remove()


class Background:
    """Calls something in a thread; `result` waits for it and raises what it raised."""

    def __init__(self, function: object, *args: object) -> None:
        self._function, self._args = function, args
        self._error: BaseException | None = None
        self._returned: object = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._returned = self._function(*self._args)  # type: ignore[operator]
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            self._error = error

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self, timeout: float) -> object:
        self._thread.join(timeout)
        assert self.done, f"not done within {timeout:g} s"
        if self._error is not None:
            raise self._error
        return self._returned
