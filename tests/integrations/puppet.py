"""Work that a test does by hand, from its own process: what it is told through Redis, one thing after the other."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import redis
import rq
from flask import current_app

from flask_sessionstatus import current_run


def puppet(name: str) -> Any:
    """Say that the work began; then do what is told, and say what came of it, until told to end."""
    client = redis.Redis.from_url(os.environ["PUPPETS"], socket_timeout=None)
    say(client, name, {"pid": os.getpid(), "attempt": current_run.attempt})
    while True:
        _, told = client.blpop([f"{name}:told"])
        command, *args = json.loads(told)
        if command == "return":
            return args[0]
        say(client, name, COMMANDS[command](*args))


def say(client: redis.Redis, name: str, what: Any) -> None:
    client.rpush(f"{name}:said", json.dumps(what))


def emit(text: str) -> None:
    current_run.emit("token", {"text": text})
    assert current_run.flush(5)


def emit_unstored(*texts: str) -> None:
    for text in texts:
        current_run.emit("token", {"text": text})


def fail(kind: str, message: str) -> None:
    raise ERRORS[kind](message)


ERRORS: dict[str, type[BaseException]] = {"ValueError": ValueError, "SystemExit": SystemExit}


def wait_for_stop() -> bool:
    return current_run.wait_cancelled(20)


def hold_the_gil(seconds: int) -> None:
    """Sleep in one call of C code that gives no other thread of this process its turn."""
    ctypes.PyDLL(None).sleep(seconds)


def idle(seconds: float) -> None:
    """Wait, and give other threads a chance to raise something here."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.01)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def is_stopped() -> bool:
    return current_run.cancelled


COMMANDS: dict[str, Callable[..., Any]] = {
    "emit": emit,
    "emit unstored": emit_unstored,
    "progress": lambda *numbers: current_run.progress(*numbers),
    "result": lambda value: current_run.result(value),
    "fail": fail,
    "wait for stop": wait_for_stop,
    "name the app": lambda: current_app.name,
    "check": lambda: current_run.check_cancelled(),
    "is stopped": is_stopped,
    "hold the gil": hold_the_gil,
    "sleep": time.sleep,
    "idle": idle,
    "exit": lambda status: os._exit(status),
    "kill": kill,
}


def hello() -> str:
    """Work that knows nothing of tasks."""
    return "hello"


def strange() -> object:
    """Work whose result is no JSON."""
    return {1, 2}


def fails() -> None:
    """Work that knows nothing of tasks, and fails."""
    raise ValueError("no")


def never_content() -> rq.Retry:
    return rq.Retry(max=2)


class Deadly(dict):  # type: ignore[type-arg]
    """A result that can be stored by RQ and kills the process that looks into it."""

    def __reduce__(self) -> tuple[type, tuple[dict[str, int]]]:
        return dict, ({"answer": 42},)

    def items(self) -> Any:
        kill()


def deadly() -> Deadly:
    return Deadly(answer=42)


def breaks(*_: object) -> None:
    """A callback that fails."""
    raise KeyError("callback")
