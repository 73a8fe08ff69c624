"""Followers over HTTP, as a browser's EventSource follows: they come again from where they were until the end."""

from __future__ import annotations

import http.client
import random
import threading
from collections.abc import Sequence

from processes.client import Client, Frame

RETRY = 0.05


class Follower(threading.Thread):
    """Follows a stream until its end frame; with `chance` it drops its connection at random places.

    `refused` holds each answer that would make an EventSource give up.
    """

    def __init__(self, clients: Sequence[Client], path: str, chance: random.Random | None = None) -> None:
        super().__init__(daemon=True)
        self._clients = clients
        self._path = path
        self._chance = chance
        self._stopped = threading.Event()
        self.cursor: str | None = None
        self.frames: list[Frame] = []
        self.ends: list[Frame] = []
        self.gaps: list[Frame] = []
        self.refused: list[int] = []
        self.refusal = ""
        self.drops = 0
        self.connections = 0
        self.start()

    def run(self) -> None:
        while not (self._stopped.is_set() or self.ends or self.refused):
            client = self._clients[self.connections % len(self._clients)]
            self.connections += 1
            try:
                self._follow(client)
            except (OSError, http.client.HTTPException):
                pass
            self._stopped.wait(RETRY)

    def _follow(self, client: Client) -> None:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": self.cursor} if self.cursor else {})}
        patience = self._chance.randint(100, 2000) if self._chance is not None else None
        with client.stream(self._path, headers) as stream:
            if stream.status != 200:
                self.refused.append(stream.status)
                self.refusal = stream.read().decode()
                return
            for got, frame in enumerate(stream):
                self.cursor = frame.id or self.cursor
                if frame.type == "number":
                    self.frames.append(frame)
                elif frame.type == "gap":
                    self.gaps.append(frame)
                elif frame.type == "end":
                    self.ends.append(frame)
                if self._stopped.is_set():
                    return
                if got == patience:
                    self.drops += 1
                    return

    def told(self) -> str:
        """What it went through, for a test that fails."""
        got = f"{self.connections} connections, {len(self.frames)} events up to {self.cursor}"
        return f"{got}: {self.refused} {self.refusal}"

    @property
    def numbers(self) -> list[int]:
        return [frame.data["number"] for frame in self.frames]

    def stop(self) -> None:
        self._stopped.set()
