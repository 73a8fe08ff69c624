"""A Cluster: each key lies in a slot, each slot on a node, and slots move.

redis-py's own client of a Cluster wants a node at start-up, repeats what may have been done, and lets one node's
trouble stop the calls of all. Here each node has its own pool and circuit, and a call is repeated only where a node
said that it did nothing.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import redis
from redis.connection import AbstractConnection
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from .address import Address, Host
from .circuit import Refused, Unsent
from .node import Argument, Command, Crowded, Exchange, Node
from .outages import Outages
from .replies import code_of, node_in
from .servers import KeyedCommand, Servers

PATIENCE = 0.25
"""Seconds: for so long a call follows a slot that moves."""

PAUSE = 0.02
QUICK_ROUNDS = 2
REFRESH = 0.2
"""Seconds between two questions for the whole map, at least half of it."""


class Unsettled(redis.ConnectionError):
    """A slot was still on the move when the patience ran out."""


@dataclass(frozen=True)
class Route:
    """Where a command goes. `asking`: to a node that is taking over the slot, and answers only who says ASKING."""

    node: Node
    asking: bool = False


class Cluster(Servers):
    """The nodes of a Cluster, found from those that an address names."""

    guarded = True

    def __init__(self, address: Address, outages: Outages) -> None:
        self._address = address
        self._outages = outages
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()
        self._refresh_at = 0.0
        self._nodes: dict[Host, Node] = {}
        self._owners: list[Node | None] = []
        for host in address.hosts:
            self._node(host)

    def execute(self, key: str, *command: Argument) -> Any:
        reply = self.pipeline([(key, command)])[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    def pipeline(self, commands: Sequence[KeyedCommand]) -> list[Any]:
        replies: list[Any] = [Unsent("No node of the Cluster could be asked.")] * len(commands)
        slots = [key_slot(key.encode()) if key else None for key, _ in commands]
        routes = {i: Route(node) for i, slot in enumerate(slots) if (node := self._owner(slot)) is not None}
        until = time.monotonic() + PATIENCE
        for attempt in count():
            self._exchange(commands, routes, replies)
            late = time.monotonic() > until
            rerouted = {i: self._reroute(slots[i], route, replies[i], late) for i, route in routes.items()}
            routes = {i: route for i, route in rerouted.items() if route is not None}
            if not routes or late:
                break
            if attempt >= QUICK_ROUNDS or any(code_of(replies[i]) == "TRYAGAIN" for i in routes):
                time.sleep(PAUSE * random.uniform(0.5, 1.0))
        for i, route in routes.items():
            replies[i] = Unsettled("A slot is being moved.")
            self._outages.failed(route.node.name, replies[i])
        return replies

    def subscriber(self, timeout: float) -> AbstractConnection:
        return self._anyone().connection(socket_timeout=timeout)

    def primaries(self) -> Sequence[Node]:
        self._refresh()
        return list({node.name: node for node in self._owners if node is not None}.values())

    def confirm(self) -> None:
        """Nothing to see: a node that serves a slot no more says so."""

    def ping(self) -> None:
        self._refresh()
        if not self._owners or None in self._owners:
            raise redis.exceptions.ClusterDownError("Some slots are served by no node.")
        for node in {node for node in self._owners if node is not None}:
            node.renew()
            node.execute("PING")

    def close(self) -> None:
        for node in self._known():
            node.close()

    # A round of calls

    def _exchange(self, commands: Sequence[KeyedCommand], routes: Mapping[int, Route], replies: list[Any]) -> None:
        """Send to all nodes, then receive from all: together they take as long as the slowest."""
        shares: dict[Node, list[tuple[int | None, Command]]] = {}
        for i, route in routes.items():
            share = shares.setdefault(route.node, [])
            if route.asking:
                share.append((None, ("ASKING",)))
            share.append((i, commands[i][1]))
        exchanges: dict[Node, Exchange] = {}
        try:
            # In one order, so that no two calls wait for each other's connections.
            for node in sorted(shares, key=lambda node: node.name):
                if len(shares) > 1 and node.circuit.is_open:
                    self._try_beside(node)
                    _put(replies, shares[node], [Refused("The node was away a moment ago.")] * len(shares[node]))
                    continue
                try:
                    exchanges[node] = node.send([command for _, command in shares[node]])
                except (redis.RedisError, OSError) as error:
                    _put(replies, shares[node], [error] * len(shares[node]))
            for node, exchange in exchanges.items():
                try:
                    received = exchange.receive()
                except (redis.RedisError, OSError) as error:
                    received = [error] * len(shares[node])
                _put(replies, shares[node], received)
        finally:
            for exchange in exchanges.values():
                exchange.abandon()

    @staticmethod
    def _try_beside(node: Node) -> None:
        """See whether a node is back in a thread of its own: who has other nodes to ask must not wait for this one."""

        def call() -> None:
            with suppress(redis.RedisError, OSError):
                node.execute("PING")

        if not node.circuit.refuses:
            threading.Thread(target=call, name="sessionstatus-trial", daemon=True).start()

    def _reroute(self, slot: int | None, route: Route, reply: Any, late: bool) -> Route | None:
        """Where a command goes next that has certainly not been executed; None when that is its reply."""
        if not isinstance(reply, (redis.ResponseError, Unsent)) or isinstance(reply, Crowded):
            return None
        code = code_of(reply)
        if code == "MOVED":
            node = self._node(_host(*node_in(reply), route.node))
            if slot is not None:
                self._owners[slot] = node
            return Route(node)
        if code == "ASK":
            return Route(self._node(_host(*node_in(reply), route.node)), asking=True)
        if code == "TRYAGAIN":
            return Route(self._owner(slot) or route.node)
        if not late and (code == "CLUSTERDOWN" or isinstance(reply, Unsent)):
            self._refresh(route.node)
            owner = self._owner(slot)
            return Route(owner) if owner not in (None, route.node) else None
        return None

    # Who serves what

    def _known(self) -> list[Node]:
        with self._lock:
            return list(self._nodes.values())

    def _node(self, host: Host) -> Node:
        with self._lock:
            if host not in self._nodes:
                opening = partial(self._address.connected_to, host)
                size, wait = self._address.size, self._address.wait
                self._nodes[host] = Node(
                    f"{host[0]}:{host[1]}", opening, self._outages, size=size, wait=wait, only_primary=False
                )
            return self._nodes[host]

    def _anyone(self) -> Node:
        known = self._known()
        return random.choice([node for node in known if not node.circuit.is_open] or known)

    def _owner(self, slot: int | None) -> Node | None:
        """The node that serves a slot; while it is away, the others are asked whether another one has taken over."""
        if slot is None:
            return self._anyone()
        if not self._owners:
            self._refresh()
        owner = self._owners[slot] if self._owners else None
        if self._owners and (owner is None or owner.circuit.is_open):
            self._refresh(owner)
            owner = self._owners[slot]
        return owner

    def _refresh(self, but: Node | None = None) -> None:
        """Ask for the whole map, any node but one; not again and again, and not in two threads at once."""
        if not self._refreshing.acquire(timeout=0 if self._owners else self._address.wait):
            return
        try:
            began = time.monotonic()
            if began < self._refresh_at:
                return
            candidates = [node for node in self._known() if node is not but]
            random.shuffle(candidates)
            for node in sorted(candidates, key=lambda node: node.circuit.is_open):
                try:
                    slots = node.execute("CLUSTER", "SLOTS")
                    if slots:  # else it has been thrown out, or has not joined yet
                        self._take_up(slots, node)
                        break
                except (redis.RedisError, OSError) as error:
                    if not self._owners:
                        self._outages.failed("", error)
                    if time.monotonic() - began > PATIENCE:
                        break
            self._refresh_at = time.monotonic() + REFRESH * random.uniform(0.5, 1.0)
        finally:
            self._refreshing.release()

    def _take_up(self, slots: Sequence[Any], asked: Node) -> None:
        owners: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, primary, *_ in slots:
            node = self._node(_host(primary[0], primary[1], asked))
            owners[first : last + 1] = [node] * (last + 1 - first)
        serving = {node for node in owners if node is not None}
        retired = {node for node in self._owners if node is not None} - serving
        self._owners = owners
        with self._lock:
            for host, node in list(self._nodes.items()):
                if node in retired and host not in self._address.hosts:
                    del self._nodes[host]
                    node.close()
        self._outages.keep_only({node.name for node in serving})
        if retired:
            self.version += 1
            self._outages.replaced(min(node.answered_at for node in retired))


def _host(reported: str | bytes | None, port: int, asked: Node) -> Host:
    """A node's address as another one reports it; without a host it is that one's."""
    name = reported.decode() if isinstance(reported, bytes) else reported
    return name or asked.name.rpartition(":")[0], int(port)


def _put(replies: list[Any], share: Sequence[tuple[int | None, Command]], received: Sequence[Any]) -> None:
    for (i, _), reply in zip(share, received):
        if i is not None:
            replies[i] = reply
