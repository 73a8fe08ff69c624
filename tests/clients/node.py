"""Scripts in node that tell what happens as lines of JSON, and take commands as lines."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

JS = Path(__file__).parent / "js"
WAIT = 30.0

Line = dict[str, Any]


class Script:
    """A running script; `lines` is what it has told so far."""

    def __init__(self, node: str, script: Path, *arguments: object, folder: Path | None = None) -> None:
        self.lines: list[Line] = []
        texts = [each if isinstance(each, str) else json.dumps(each) for each in arguments]
        self._process = subprocess.Popen(
            [node, str(script), *texts],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        self._told = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._told:
                self.lines.append(json.loads(line))
                self._told.notify_all()

    def send(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()

    def of(self, kind: str) -> list[Line]:
        """What it has told of one kind."""
        return [line for line in list(self.lines) if line["on"] == kind]

    def wait(self, check: Callable[[], Any], what: str) -> Any:
        """Wait until something is true of what it told."""
        until = time.monotonic() + WAIT
        with self._told:
            while not (found := check()):
                self._told.wait(0.1)
                assert self._process.poll() is None or check(), f"{what}: it has ended. {self.lines[-5:]}"
                assert time.monotonic() < until, f"{what}: not within {WAIT:g} s. {self.lines[-5:]}"
        return found

    def finish(self) -> list[Line]:
        """Wait until it ends by itself, without a complaint; returns all that it told."""
        assert self._process.stderr is not None
        assert self._process.wait(WAIT) == 0, self._process.stderr.read()
        self._reader.join(WAIT)
        assert self._process.stderr.read() == ""
        return self.lines

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join(WAIT)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()
