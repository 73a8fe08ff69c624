"""The handing over after an outage, on every kind of Redis, with the rights that the documentation asks for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from fallbacks import as_it_was_written, before, everything, meanwhile
from harness import NOWHERE, START, Kind, a_session, begin
from topologies import ClusterGroup

from flask_sessionstatus.models import TaskState
from flask_sessionstatus.stores.base import Limits
from flask_sessionstatus.stores.fallback import FallbackStore
from flask_sessionstatus.stores.redis import RedisStore, connect
from flask_sessionstatus.stores.redis.topologies import servers_at


@pytest.fixture
def fallback(kind: Kind) -> FallbackStore:
    if not kind.is_redis or kind.fallback:
        pytest.skip("It is for kinds of Redis.")
    redis_store = kind.make(insists=False)
    assert isinstance(redis_store, RedisStore)
    return FallbackStore(redis_store, monotonic=kind.clock.monotonic, wall=kind.clock)


def test_one_of_each_thing_that_can_be_written_is_handed_over(kind: Kind, fallback: FallbackStore) -> None:
    calls = fallback._switch._redis._calls
    there, nowhere = calls.servers, servers_at(connect(NOWHERE, {}), fallback._switch._redis._outages)
    plain = kind.make()
    job = before(plain, fallback)
    calls.servers = nowhere
    meanwhile(kind.clock, fallback, job)
    assert fallback.degraded
    calls.servers = there
    assert fallback.hand_over(20)
    as_it_was_written(everything(plain), START)


@pytest.mark.parametrize("topology", ["cluster"])
def test_one_node_of_a_cluster_switches_the_process_until_all_are_back(
    group: Callable[[str], Any], topology: str
) -> None:
    """Nobody is failed over here: the node is silent for less than that takes."""
    cluster: ClusterGroup = group(topology)
    options = {"socket_timeout": 0.3, "socket_connect_timeout": 0.3}
    store = FallbackStore(RedisStore(connect(cluster.uri, options), Limits(), "sessionstatus:one-node:"))
    plain = RedisStore(connect(cluster.uri, {}), Limits(), "sessionstatus:one-node:")
    # Conversations enough that each node has some.
    names = [f"c{number}" for number in range(30)]
    for name in names:
        store.create_session(a_session(f"s-{name}", name))
        assert store.session(f"s-{name}") is not None
    silent = next(server for server in cluster.data if cluster.roles()[server.port] == "master")
    silent.pause()
    awake = threading.Timer(2.0, silent.go_on)
    awake.start()
    try:
        slowest = 0.0
        for name in names:
            began = time.monotonic()
            begin(store, a_session(f"s-{name}", name)).append(["a"])
            slowest = max(slowest, time.monotonic() - began)
        assert store.degraded
        assert slowest < 1.5
        time.sleep(0.5)
        assert store.degraded, "The other nodes answer, and one does not."
    finally:
        awake.join()
    assert store.hand_over(10)
    for name in names:
        (task,) = plain.tasks(f"s-{name}", 10) or ()
        assert (task.state, task.tail) == (TaskState.RUNNING, 1)
    for each in (store, plain):
        each.close()
