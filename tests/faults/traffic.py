"""Requests at a steady pace, of every kind that writes, and what must be stored afterwards because it was answered."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

PREFIX = "/api/v1"
SHORT, PACE = 0.3, 0.02
AT_ONCE = 48


@dataclass
class Written:
    """A session as its client knows it."""

    session_id: str
    conversation_id: str
    turns: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    deleted: bool = False
    busy: threading.Lock = field(default_factory=threading.Lock)


class Traffic:
    """`rate` requests a second to a server, until it is stopped. `refused` holds every answer that was no success."""

    def __init__(self, url: str, rate: float, chance: random.Random) -> None:
        self.written: list[Written] = []
        self.generations: list[tuple[str, str, str]] = []
        self.refused: list[tuple[str, int, bytes]] = []
        self.slowest = 0.0
        self.degraded = 0
        self.kinds: Counter[str] = Counter()
        self._address = urlsplit(url)
        self._rate = rate
        self._chance = chance
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send nothing more, and wait for what is under way."""
        self._stopped.set()
        self._thread.join(30)
        self._pool.shutdown()

    def request(self, method: str, path: str, body: object = None) -> Any:
        """One request on a connection of its own; what it answered, None where that was no success."""
        assert self._address.hostname is not None
        connection = http.client.HTTPConnection(self._address.hostname, self._address.port, timeout=30)
        began = time.monotonic()
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"} if text else {})
            response = connection.getresponse()
            said = response.read()
        except OSError as error:
            self.refused.append((f"{method} {path}", 0, str(error).encode()))
            return None
        finally:
            connection.close()
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.degraded += response.headers.get("SessionStatus-Degraded") == "memory"
        if response.status >= 300:
            self.refused.append((f"{method} {path}", response.status, said))
            return None
        return json.loads(said)

    def _run(self) -> None:
        kinds = (self._create, self._say, self._change, self._say, self._look, self._generate, self._say, self._delete)
        due, number = time.monotonic(), 0
        while not self._stopped.wait(max(0.0, due - time.monotonic())):
            self._pool.submit(self._noted, kinds[number % len(kinds)])
            due, number = due + 1 / self._rate, number + 1

    def _noted(self, kind: Any) -> None:
        try:
            self.kinds[kind.__name__] += 1
            kind()
        except Exception as error:  # noqa: BLE001 - the test looks at what was refused
            self.refused.append((kind.__name__, -1, repr(error).encode()))

    def _some(self) -> Written | None:
        known = [each for each in self.written if not each.deleted]
        return self._chance.choice(known) if known else None

    def _create(self) -> None:
        conversation_id = f"conversation {uuid4()}"
        made = self.request("POST", f"{PREFIX}/sessions", {"conversationId": conversation_id, "metadata": {"a": 1}})
        if made is not None:
            self.written.append(Written(made["id"], conversation_id, metadata={"a": 1}))

    def _say(self) -> None:
        session = self._some()
        if session is None:
            return self._create()
        with session.busy:
            if session.deleted:
                return None
            content = uuid4().hex
            turn = {"role": "user", "content": content, "slots": {"last": content}}
            said = self.request("POST", f"{PREFIX}/sessions/{session.session_id}/messages", turn)
            if said is not None:
                assert said["position"] == len(session.turns)
                session.turns.append(content)
        return None

    def _change(self) -> None:
        session = self._some()
        if session is None:
            return
        with session.busy:
            if session.deleted:
                return
            change = {uuid4().hex[:4]: self._chance.random(), "a": None if self._chance.random() < 0.5 else 2}
            if self.request("PATCH", f"{PREFIX}/sessions/{session.session_id}", {"metadata": change}) is not None:
                known = {**session.metadata, **change}
                session.metadata = {name: value for name, value in known.items() if value is not None}

    def _look(self) -> None:
        session = self._some()
        if session is None:
            return
        with session.busy:
            if session.deleted:
                return
            path = f"{PREFIX}/conversations/{session.conversation_id.replace(' ', '%20')}/active-session"
            seen = self.request("GET", path)
            assert seen is None or seen["sessionId"] == session.session_id
            turns = self.request("GET", f"{PREFIX}/sessions/{session.session_id}/messages?limit=20")
            assert turns is None or [turn["content"] for turn in turns] == session.turns[-20:]
        self.request("GET", f"{PREFIX}/sessions")

    def _generate(self) -> None:
        conversation_id = f"generation {uuid4()}"
        path = f"/count/{conversation_id.replace(' ', '%20')}?seconds={SHORT}&pace={PACE}"
        begun = self.request("POST", path)
        if begun is not None:
            self.generations.append((conversation_id, begun["sessionId"], begun["taskId"]))

    def _delete(self) -> None:
        session = self._some()
        if session is None:
            return
        with session.busy:
            if session.deleted or len(self.written) % 3:
                return
            if self.request("DELETE", f"{PREFIX}/sessions/{session.session_id}") is not None:
                session.deleted = True
