"""F17: primaries die under a generation, and slots move: each follower has every event exactly once all the same."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import pytest
from faults.conftest import Started
from faults.generation import Generation
from faults.stores import Fault
from harness import once_available
from processes.gunicorns import Server
from servers import executable
from topologies import ClusterGroup, SentinelGroup, slot_of, wait_for

from flask_sessionstatus.stores.base import Limits
from flask_sessionstatus.stores.redis import RedisStore, connect

DOWN_AFTER = 500
"""Milliseconds: a primary that is silent for so long is failed over."""


class PrimaryKilled:
    """kill -9 of the primary; the Sentinels promote a replica, and it comes back, empty, as a replica."""

    strikes = 3

    def __init__(self, conversation_id: str) -> None:
        self._group = SentinelGroup(DOWN_AFTER)
        self.uris = self._group.uri, self._group.uri

    def strike(self, chance: random.Random) -> None:
        self._group.wait_until_whole()
        old = self._group.primary
        old.kill()
        wait_for(lambda: self._group.primary is not old, "another primary", 30)
        new = self._group.primary
        wait_for(lambda: new.client.role()[0] == b"master", "its promotion")
        old.launch("--replicaof", "127.0.0.1", str(new.port))

    def remove(self) -> None:
        self._group.remove()


class PrimaryPaused(PrimaryKilled):
    """A primary that hangs until another one was promoted, and then goes on with what it had: it is demoted."""

    strikes = 2

    def strike(self, chance: random.Random) -> None:
        self._group.wait_until_whole()
        old = self._group.primary
        old.pause()
        try:
            wait_for(lambda: self._group.primary is not old, "another primary", 30)
        finally:
            old.go_on()


class NodeKilled:
    """kill -9 of the node of a Cluster that serves the conversation; its replica takes over."""

    strikes = 3

    def __init__(self, conversation_id: str) -> None:
        self._group = ClusterGroup(DOWN_AFTER)
        self._slot = slot_of(conversation_id)
        self.uris = self._group.uri, self._group.uri

    def strike(self, chance: random.Random) -> None:
        self._group.wait_until_whole()
        old = self._group.owner(self._slot)
        old.kill()
        wait_for(lambda: self._group.owner(self._slot) is not old, "another owner", 30)
        old.launch()

    def remove(self) -> None:
        self._group.remove()


class SlotMoved:
    """The conversation's slot moves from node to node, key by key."""

    strikes, times = 10, 5

    def __init__(self, conversation_id: str, executable: str = "") -> None:
        self._group = ClusterGroup(executable=executable)
        self._slot = slot_of(conversation_id)
        self.uris = self._group.uri, self._group.uri

    def strike(self, chance: random.Random) -> None:
        for _ in range(self.times):
            self._group.migrate(self._slot, chance)
            time.sleep(chance.uniform(0, 0.1))

    def remove(self) -> None:
        self._group.remove()


FAULTS: dict[str, Callable[[str], Fault]] = {
    "primary-killed": PrimaryKilled,
    "primary-paused-and-demoted": PrimaryPaused,
    "node-of-a-cluster-killed": NodeKilled,
    "slot-moved-fifty-times": SlotMoved,
    "slot-moved-fifty-times-6.2": lambda conversation_id: SlotMoved(conversation_id, executable("redis-6.2")),
}


@pytest.fixture(params=FAULTS)
def fault(request: pytest.FixtureRequest, conversation_id: str) -> Iterator[Fault]:
    fault = FAULTS[request.param](conversation_id)
    yield fault
    fault.remove()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_each_follower_has_every_event_once_and_in_order_over_failovers_and_resharding(
    fault: Fault,
    chance: random.Random,
    serve: Callable[..., Server],
    script: Callable[..., Started],
    conversation_id: str,
) -> None:
    generation = Generation(fault, chance, serve, script, conversation_id)
    generation.run(fault.strikes)  # type: ignore[attr-defined]
    generation.each_follower_has_every_event_once_and_in_order()


@pytest.mark.parametrize("kind", [PrimaryKilled, NodeKilled], ids=["sentinel", "cluster"])
def test_a_process_that_asked_nothing_during_a_failover_goes_on_and_knows_that_there_was_one(
    kind: type[PrimaryKilled] | type[NodeKilled], chance: random.Random, conversation_id: str
) -> None:
    fault = kind(conversation_id)
    store = RedisStore(connect(fault.uris[0], {}), Limits())
    try:
        store.snapshot(conversation_id)
        fault.strike(chance)
        assert once_available(lambda: store.snapshot(conversation_id), 1).tasks == {}
        assert store.recovering, "what it does not find may not have been stored again yet"
    finally:
        store.close()
        fault.remove()
