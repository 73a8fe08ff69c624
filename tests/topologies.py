"""Real servers of each topology on loopback: Sentinels over a primary with replicas, a Cluster, TLS, a socket."""

from __future__ import annotations

import atexit
import random
import shutil
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.crc import key_slot
from redis.retry import Retry
from servers import Certificate, ServerProcess, free_port, newest

START_WAIT = 15.0
SLOTS = 16384
BUS = 10_000
"""How far the port of a node's bus is from its own."""
SERVICE = "main"
SOON = 1000
"""Milliseconds: nodes that must hear of each other often get to know each other soon."""
USER, PASSWORD = "app", "a-secret/:@word"
CREDENTIALS = f"{USER}:{quote(PASSWORD, safe='')}"
"""The servers of groups know a user that may do exactly what docs/redis.md says, and a default one that may do all."""


def minimal_acl(name: str = "acl", page: str = "redis.md") -> list[str]:
    """The rules of a block of a page of docs/."""
    text = (Path(__file__).parents[1] / "docs" / page).read_text(encoding="utf-8")
    code = text.split(f"<!-- {name} -->\n```\n", 1)[1].split("\n```", 1)[0]
    return [
        rule.replace(">the-password", f">{PASSWORD}")
        for rule in code.split()
        if not rule.isupper() and rule != "sessionstatus"
    ]


def user(*blocks: str) -> dict[str, str]:
    """The setting that makes the user known, also after a start; with the rules of those blocks."""
    return {"user": " ".join([USER, *(rule for block in blocks for rule in minimal_acl(block))])}


def wait_for(condition: Callable[[], object], what: str, wait: float = START_WAIT) -> None:
    """Wait until something holds; a server that cannot be asked yet does not count."""
    until = time.monotonic() + wait
    while True:
        try:
            if condition():
                return
        except (redis.RedisError, LookupError):
            pass
        assert time.monotonic() < until, f"{what}: not within {wait:g} s"
        time.sleep(0.02)


class Process(ServerProcess):
    """A server of a group, which is started; it may come back with what it has in its folder."""

    def __init__(self, port: int, command: Sequence[str]) -> None:
        super().__init__(command)
        self.port = port
        self.client = self.client_as()
        self.launch()

    def client_as(self, **settings: object) -> redis.Redis:
        settings = {"host": "127.0.0.1", "port": self.port, "socket_timeout": 5, **settings}
        return redis.Redis(retry=Retry(NoBackoff(), 0), **settings)  # type: ignore[arg-type]

    def wait(self) -> None:
        wait_for(self.client.ping, f"the server on {self.port}")


class Group:
    """Servers that are started and removed together."""

    uri: str

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sessionstatus-"))
        self.processes: list[Process] = []
        # Also where a group's start fails half-way.
        atexit.register(self.remove)

    def server(self, settings: Mapping[str, object] | None = None, *arguments: str, executable: str = "") -> Process:
        """Start a redis-server: `arguments` come first, then `settings` on top of those of every server here."""
        chosen = {
            **{"port": free_port(), "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": self.folder},
            **(settings or {}),
        }
        chosen.setdefault("logfile", self.folder / f"{chosen['port']}.log")
        options = [part for name, value in chosen.items() for part in (f"--{name}", *(str(value).split() or [""]))]
        return self._start(int(chosen["port"]), [executable or newest(), *arguments, *options])

    def _start(self, port: int, command: Sequence[str]) -> Process:
        process = Process(port, command)
        self.processes.append(process)
        return process

    def client(self) -> redis.Redis | EveryNode:
        """A client that may do everything, for the server that can be written to."""
        return self.processes[0].client_as()

    def remove(self) -> None:
        for process in self.processes:
            process.client.close()
            process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class SentinelGroup(Group):
    """A primary, two replicas, and three Sentinels that fail over when the primary is silent for `down_after` ms."""

    def __init__(self, down_after: int = 3000, executable: str = "") -> None:
        super().__init__()
        quick = {"repl-diskless-sync-delay": 0, "repl-ping-replica-period": 1, **user("acl")}
        first = self.server(quick, executable=executable)
        first.wait()
        replicas = [
            self.server({**quick, "replicaof": f"127.0.0.1 {first.port}"}, executable=executable) for _ in range(2)
        ]
        self.data = [first, *replicas]
        for replica in replicas:
            replica.wait()
            wait_for(
                lambda replica=replica: replica.client.info("replication")["master_link_status"] == "up", "a replica"
            )
        self.sentinels = [self._sentinel(first.port, down_after, executable) for _ in range(3)]
        self.uri = (
            f"redis+sentinel://{CREDENTIALS}@{','.join(f'127.0.0.1:{each.port}' for each in self.sentinels)}/{SERVICE}"
        )
        for sentinel in self.sentinels:
            wait_for(lambda sentinel=sentinel: self._sees_all(sentinel), "the Sentinels")

    def _sentinel(self, primary: int, down_after: int, executable: str) -> Process:
        port = free_port()
        config = self.folder / f"sentinel-{port}.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\nsentinel monitor {SERVICE} 127.0.0.1 {primary} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} {down_after}\nsentinel failover-timeout {SERVICE} 1000\n"
            f"sentinel parallel-syncs {SERVICE} 2\nlogfile {self.folder}/{port}.log\ndir {self.folder}\n"
        )
        return self._start(port, [executable or newest(), str(config), "--sentinel"])

    @staticmethod
    def _sees_all(sentinel: Process) -> bool:
        state = sentinel.client.sentinel_masters()[SERVICE]
        return bool(state["num-slaves"] == 2 and state["num-other-sentinels"] == 2)

    @property
    def primary(self) -> Process:
        """Whom most Sentinels name; one may be behind the others."""
        named = Counter(sentinel.client.sentinel_get_master_addr_by_name(SERVICE)[1] for sentinel in self.sentinels)
        port, votes = named.most_common(1)[0]
        if votes < 2:
            raise LookupError("no two Sentinels agree")
        return next(each for each in self.data if each.port == port)

    def client(self) -> redis.Redis:
        return self.primary.client_as()

    def wait_until_whole(self) -> None:
        """Wait until the primary has two replicas again that follow it."""
        for server in self.data:
            server.wait()

        def is_whole() -> bool:
            primary = self.primary
            states = [each.client.info("replication") for each in self.data if each is not primary]
            return all(
                (state.get("master_port"), state.get("master_link_status")) == (primary.port, "up") for state in states
            )

        wait_for(is_whole, "a primary with two replicas", 60)


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


class EveryNode(RedisCluster):
    """A client of a Cluster that asks all primaries where only that makes sense."""

    def everywhere(self, *command: object) -> list[Any]:
        """The replies of a command, one for each primary."""
        return [node.redis_connection.execute_command(*command) for node in self.get_primaries()]

    def keys(self, pattern: str) -> list[bytes]:
        return [key for found in self.everywhere("KEYS", pattern) for key in found]

    def flushall(self) -> None:
        self.everywhere("FLUSHALL")


class ClusterGroup(Group):
    """Three primaries, each with a replica; one that is silent for `timeout` ms is failed over."""

    def __init__(self, timeout: int = 5000, executable: str = "") -> None:
        super().__init__()
        self.data = [self._node(executable) for _ in range(6)]
        primaries, replicas = self.data[:3], self.data[3:]
        for server in self.data:
            server.wait()
        for i, server in enumerate(primaries):
            first, last = i * SLOTS // 3, (i + 1) * SLOTS // 3
            server.client.execute_command("CLUSTER ADDSLOTS", *range(first, last))
            server.client.execute_command("CLUSTER SET-CONFIG-EPOCH", i + 1)
        # None meets itself: it would be counted twice until it knows.
        for server, other in permutations(self.data, 2):
            server.client.execute_command("CLUSTER MEET", "127.0.0.1", other.port)
        for server in self.data:
            wait_for(lambda server=server: len(server.client.cluster("nodes")) == 6, "the nodes")
        self.ids = {server.port: server.client.execute_command("CLUSTER MYID").decode() for server in self.data}
        self.uri = f"redis+cluster://{CREDENTIALS}@{','.join(f'127.0.0.1:{each.port}' for each in primaries)}"
        self._wait(lambda: all(self._replicates(*pair) for pair in zip(replicas, primaries)) and self._is_whole())
        for server in self.data:
            server.client.config_set("cluster-node-timeout", timeout)

    def _node(self, executable: str) -> Process:
        port = self._free_port()
        settings = {
            **{"port": port, "cluster-enabled": "yes", "cluster-config-file": f"nodes-{port}.conf"},
            **{"cluster-node-timeout": SOON, "cluster-replica-validity-factor": 0},
            **{"cluster-allow-replica-migration": "no"},
            **user("acl", "acl cluster"),
            **{"repl-diskless-sync-delay": 0, "repl-ping-replica-period": 1},
        }
        return self.server(settings, executable=executable)

    def _free_port(self) -> int:
        """A port that nobody uses, with the one of the bus; both below those that clients are given."""
        taken = {server.port + far for server in self.processes for far in (0, BUS)}
        while True:
            port = random.randrange(12_000, 22_000)
            if not taken & {port, port + BUS} and _is_free(port) and _is_free(port + BUS):
                return port

    def _replicates(self, replica: Process, primary: Process) -> bool:
        """Whether a node says that it is a primary's replica; else it is told so, again if it forgot."""
        (itself,) = (each for each in replica.client.cluster("nodes").values() if "myself" in each["flags"])
        if itself["master_id"] == self.ids[primary.port]:
            return True
        replica.client.execute_command("CLUSTER REPLICATE", self.ids[primary.port])
        return False

    def roles(self) -> dict[int, str]:
        """The role of each node that answers, by its port."""
        found = {}
        for server in self.data:
            try:
                found[server.port] = server.client.role()[0].decode()
            except redis.ConnectionError:
                continue
        return found

    def owner(self, slot: int) -> Process:
        """The primary that serves a slot, as the primaries themselves say. Raises LookupError while there is none."""
        for server in self.data:
            try:
                if server.client.role()[0] != b"master":
                    continue
                for first, last, primary, *_ in server.client.execute_command("CLUSTER SLOTS"):
                    if first <= slot <= last and primary[1] == server.port:
                        return server
            except redis.ConnectionError:
                continue
        raise LookupError(f"nobody serves slot {slot}")

    def wait_until_whole(self) -> None:
        """Wait until all slots are served, and each primary has a replica that follows it."""
        self._wait(self._is_whole)

    def _wait(self, condition: Callable[[], bool]) -> None:
        try:
            wait_for(condition, "a whole Cluster", 55)
        except AssertionError as error:
            nodes = [server.client.execute_command("CLUSTER NODES") for server in self.data]
            raise AssertionError(f"{error}: {nodes}") from None

    def _is_whole(self) -> bool:
        states = [server.client.cluster("info")["cluster_state"] for server in self.data]
        replicas = [server for server in self.data if server.client.role()[0] == b"slave"]
        linked = [server.client.info("replication")["master_link_status"] for server in replicas]
        return states == ["ok"] * 6 and linked == ["up"] * 3 and self._agree()

    def _agree(self) -> bool:
        maps = []
        for server in self.data:
            slots = server.client.execute_command("CLUSTER SLOTS")
            maps.append(sorted((each[0], each[1], each[2][1], len(each)) for each in slots))
        return all(each == maps[0] for each in maps) and all(row[3] == 4 for row in maps[0])

    def client(self) -> EveryNode:
        return EveryNode(startup_nodes=[ClusterNode("127.0.0.1", each.port) for each in self.data[:3]])

    def migrate(self, slot: int, chance: random.Random | None = None) -> None:
        """Move a slot to another primary as a resharding does, key by key, with pauses between."""
        source = self.owner(slot)
        others = [each for each in self.data if each is not source and each.client.role()[0] == b"master"]
        with self.moving(slot, source, (chance or random).choice(others)) as moved:
            for _ in moved:
                time.sleep((chance or random).uniform(0, 0.01))

    @contextmanager
    def moving(self, slot: int, source: Process, target: Process) -> Iterator[Iterator[bytes]]:
        """A slot on its way: going on with what this gives moves the next key; at the end the target serves it."""
        target.client.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", self.ids[source.port])
        source.client.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", self.ids[target.port])

        def keys() -> Iterator[bytes]:
            while found := source.client.execute_command("CLUSTER GETKEYSINSLOT", slot, 1):
                yield found[0]
                source.client.execute_command("MIGRATE", "127.0.0.1", target.port, found[0], 0, 5000)

        yield keys()
        primaries = [each for each in self.data if each.client.role()[0] == b"master"]
        for server in sorted(primaries, key=lambda each: (each is not target, each is not source)):
            server.client.execute_command("CLUSTER SETSLOT", slot, "NODE", self.ids[target.port])


def slot_of(conversation_id: str, prefix: str = "sessionstatus:") -> int:
    from flask_sessionstatus.stores.redis.keys import Keys

    return key_slot(Keys(prefix).conversation(conversation_id).encode())


class AclGroup(Group):
    """A server that is used by the user that may do no more than what is needed."""

    def __init__(self) -> None:
        super().__init__()
        server = self.server(user("acl"))
        server.wait()
        self.uri = f"redis://{CREDENTIALS}@127.0.0.1:{server.port}/0"


class TlsGroup(Group):
    """A server that speaks TLS alone, with a certificate of its own making."""

    def __init__(self) -> None:
        super().__init__()
        made = Certificate(self.folder)
        self.certificate = made.file
        port = free_port()
        files = {"tls-cert-file": made.file, "tls-key-file": made.key, "tls-ca-cert-file": made.file}
        server = self.server({"port": 0, "tls-port": port, "tls-auth-clients": "no", **files})
        server.port = port
        server.client = server.client_as(ssl=True, ssl_ca_certs=str(self.certificate))
        server.wait()
        self.uri = f"rediss://localhost:{port}/0?ssl_ca_certs={self.certificate}"


class SocketGroup(Group):
    """A server behind a Unix socket alone."""

    def __init__(self) -> None:
        super().__init__()
        path = self.folder / "redis.sock"
        server = self.server({"port": 0, "unixsocket": path})
        server.client = redis.Redis(unix_socket_path=str(path))
        server.wait()
        self.uri = f"unix://{path}"
