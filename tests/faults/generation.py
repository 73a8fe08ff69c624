"""A generation with five followers, in processes of their own, through whatever happens to its store meanwhile."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from faults.conftest import Started, hear, say
from faults.followers import Follower
from faults.stores import Fault
from processes.client import Client, wait_until
from processes.gunicorns import Server

EVENTS = 20_000
WORKERS = 2
TIMEOUT = 0.25
SETTINGS = {
    "LEASE": 10,
    "HEARTBEAT": 1,
    "MAX_EVENTS": EVENTS + 10,
    "STORAGE_OPTIONS": f'{{"socket_timeout": {TIMEOUT}, "socket_connect_timeout": {TIMEOUT}}}',
}


class Generation:
    """A producer, two followers in its process, three in another one of which two drop their connections at random."""

    def __init__(
        self,
        fault: Fault,
        chance: random.Random,
        serve: Callable[..., Server],
        script: Callable[..., Started],
        conversation_id: str,
        **settings: object,
    ) -> None:
        chosen = {**SETTINGS, **settings}
        self._fault = fault
        self._chance = chance
        self._producer = script("producer.py", conversation_id, STORAGE_URI=fault.uris[0], **chosen)
        web = serve("--workers", str(WORKERS), "--threads", "8", STORAGE_URI=fault.uris[1], **chosen)
        asked = set[str]()

        def each_has_asked_the_store() -> bool:
            asked.add(web.client.get("/api/v1/health").headers["X-Process"])
            return len(asked) == WORKERS

        # One that asks for the first time once the store is back empty cannot know that it was ever another.
        wait_until(each_has_asked_the_store, 20, "each process knows the store")
        port, session_id, _ = hear(self._producer).split()
        self._path = f"{web.client.conversation(conversation_id)}/resume/{session_id}"
        here, self._elsewhere = Client(f"http://127.0.0.1:{port}"), web.client
        self.followers = [
            Follower([here], self._path),
            Follower([here], self._path),
            Follower([self._elsewhere], self._path),
            Follower([self._elsewhere], self._path, random.Random(chance.random())),
            Follower([self._elsewhere], self._path, random.Random(chance.random())),
        ]

    def run(self, strikes: int) -> None:
        """Work through so many strikes, the same share of the events around each; then end."""
        began, chance, followers = time.monotonic(), self._chance, self.followers
        for strike in range(1, strikes + 1):
            upto = strike * EVENTS // strikes
            say(self._producer, upto)
            time.sleep(chance.uniform(0, 0.2))
            self._fault.strike(chance)
            assert hear(self._producer) == str(upto)
            if chance.random() < 0.5:
                wait_until(lambda upto=upto: len(followers[2].frames) >= upto or followers[2].refused, 10, f"{upto}")
        assert self._producer.stdin is not None
        self._producer.stdin.close()
        assert hear(self._producer) == "ended"
        for follower in followers:
            follower.join(10)
        print(f"{time.monotonic() - began:.1f} s, drops: {[each.drops for each in followers]}")  # noqa: T201

    def each_follower_has_every_event_once_and_in_order(self) -> None:
        for follower in self.followers:
            assert follower.refused == [], follower.told()
            assert follower.gaps == [], follower.gaps
            assert follower.numbers == list(range(EVENTS))
            assert [(end.data["state"], end.id == follower.cursor) for end in follower.ends] == [("completed", True)]
        assert all(follower.drops > 3 for follower in self.followers[3:])
        end = {"Last-Event-ID": str(self.followers[0].cursor)}
        wait_until(lambda: self._elsewhere.get(self._path, **end).status == 204, 5, "nothing after the end")
        for follower in self.followers:
            follower.stop()
