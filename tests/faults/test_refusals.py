"""F17: what a server says when it cannot serve: each said by a real one, and over within a second of its end."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
import redis
from harness import Job, a_session, a_task, at_once, begin, logged, once_available
from servers import executables
from topologies import CREDENTIALS, PASSWORD, USER, ClusterGroup, Group, Process, minimal_acl, slot_of, wait_for

from flask_sessionstatus import StoreUnavailable
from flask_sessionstatus.models import TaskState
from flask_sessionstatus.stores.base import Append, Limits, Verdict
from flask_sessionstatus.stores.redis import RedisStore, connect

SOON = 1.0
"""Seconds: within so long a refusal is answered, and its end noticed."""


@pytest.fixture
def group() -> Iterator[Group]:
    group = Group()
    yield group
    group.remove()


@pytest.fixture
def server(group: Group) -> Process:
    server = group.server({"repl-diskless-sync-delay": 0})
    server.wait()
    return server


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterGroup]:
    cluster = ClusterGroup()
    yield cluster
    cluster.remove()


@pytest.fixture
def open_store() -> Iterator[Callable[..., RedisStore]]:
    made: list[RedisStore] = []

    def open_it(uri: str, **options: Any) -> RedisStore:
        made.append(RedisStore(connect(uri, options), Limits()))
        return made[-1]

    yield open_it
    for store in made:
        store.close()


def write(job: Job) -> None:
    """Append an event. Raises StoreUnavailable."""
    answer = job.store.append([Append(job.ref, 1, job.epoch, job.tail, 0, [("token", "{}")])])[0]
    if isinstance(answer, Exception):
        raise answer
    if answer.verdict is Verdict.STORED:
        job.tail = answer.number


def is_refused(call: Callable[[], object]) -> None:
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        call()
    assert time.monotonic() - began < SOON


class Trouble:
    """Something that a server is told so that it refuses, and how it is mended."""

    reads = False
    """Whether what is only read is still answered."""

    says = ""
    """The name of redis-py's error, or a part of the server's message; as a regular expression."""

    credentials = f"{CREDENTIALS}@"

    def __init__(self, server: Process, group: Group) -> None:
        self.server = server
        self.group = group

    def begin(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        raise NotImplementedError


class Configured(Trouble):
    """Settings that make it refuse, and that let it go on."""

    wrong: dict[str, object]
    right: dict[str, object]

    def begin(self) -> None:
        for name, value in self.wrong.items():
            self.server.client.config_set(name, value)

    def end(self) -> None:
        for name, value in self.right.items():
            self.server.client.config_set(name, value)


class Demoted(Trouble):
    """READONLY: it has become the replica of another one, and its connections still stand."""

    says = "ReadOnlyError"

    def begin(self) -> None:
        other = self.group.server({"replicaof": f"127.0.0.1 {self.server.port}"})
        other.wait()
        self._wait_for_link(other)
        other.client.replicaof("NO", "ONE")
        self.server.client.replicaof("127.0.0.1", other.port)
        self._wait_for_link(self.server)

    @staticmethod
    def _wait_for_link(replica: Process) -> None:
        wait_for(lambda: replica.client.info("replication")["master_link_status"] == "up", "the replica")

    def end(self) -> None:
        self.server.client.replicaof("NO", "ONE")


class Orphaned(Trouble):
    """MASTERDOWN: a replica whose primary is gone, and that does not serve what may be stale."""

    says = "MasterDownError|MASTERDOWN"

    def begin(self) -> None:
        self.server.client.config_set("replica-serve-stale-data", "no")
        self.server.client.replicaof("127.0.0.1", 1)

    def end(self) -> None:
        self.server.client.replicaof("NO", "ONE")


class OutOfMemory(Configured):
    reads, says = True, "OutOfMemoryError"
    wrong, right = {"maxmemory-policy": "noeviction", "maxmemory": 1}, {"maxmemory": 0}


class NoReplicas(Configured):
    reads, says = True, "NOREPLICAS"
    wrong, right = {"min-replicas-to-write": 1}, {"min-replicas-to-write": 0}


class CannotSave(Configured):
    """MISCONF: it shall save and cannot."""

    reads, says = True, "MISCONF"
    wrong, right = {"save": "3600 1"}, {"stop-writes-on-bgsave-error": "no"}

    def begin(self) -> None:
        super().begin()
        (self.group.folder / "dump.rdb").mkdir()
        self.server.client.bgsave()
        wait_for(lambda: self.server.client.info("persistence")["rdb_last_bgsave_status"] == "err", "a failed save")


class Busy(Trouble):
    """BUSY: somebody's script does not end."""

    says = "BUSY"

    def begin(self) -> None:
        self.server.client.config_set("lua-time-limit", 10)
        self._running = threading.Thread(target=self._run, daemon=True)
        self._running.start()
        time.sleep(0.1)

    def _run(self) -> None:
        with self.server.client_as(socket_timeout=30) as client, pytest.raises(redis.ResponseError):
            client.eval("while true do end", 0)

    def end(self) -> None:
        self.server.client.script_kill()
        self._running.join(5)


class Loading(Trouble):
    """LOADING: it has started again and reads what it had."""

    credentials = ""  # it forgets users

    def begin(self) -> None:
        if "redis-7" not in executables():
            pytest.skip("Redis 6.2 cannot be made to load slowly.")
        client = self.server.client
        client.eval("for i = 1, 3000 do redis.call('SET', 'filler:' .. i, string.rep('x', 400)) end", 0)
        client.save()
        self.server.kill()
        self.server.launch("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")
        with pytest.raises(redis.BusyLoadingError):
            wait_for_reply(client)

    def end(self) -> None:
        self.server.wait()


def wait_for_reply(client: redis.Redis) -> None:
    while True:
        try:
            client.get("x")
        except redis.BusyLoadingError:
            raise
        except redis.ConnectionError:
            time.sleep(0.005)


class TakenRights(Trouble):
    """NOPERM: the user may not do any more what it could."""

    says = "NoPermissionError"

    def begin(self) -> None:
        self.server.client.execute_command("ACL", "SETUSER", USER, "-evalsha", "-eval")

    def end(self) -> None:
        self.server.client.execute_command("ACL", "SETUSER", USER, "+evalsha", "+eval")


class WrongPassword(Trouble):
    """WRONGPASS: the password was changed, and the connections were cut."""

    says = "AuthenticationError"

    def begin(self) -> None:
        self.server.client.execute_command("ACL", "SETUSER", USER, f"<{PASSWORD}", ">another")
        self.server.client.client_kill_filter(_type="normal", skipme=True)

    def end(self) -> None:
        self.server.client.execute_command("ACL", "SETUSER", USER, f">{PASSWORD}")


class Full(Configured):
    """All the connections that it allows are in use."""

    says = "max number of clients reached"
    wrong, right = {"maxclients": 1}, {"maxclients": 10_000}

    def begin(self) -> None:
        super().begin()
        self.server.client.client_kill_filter(_type="normal", skipme=True)


TROUBLES = [
    *(Demoted, Orphaned, OutOfMemory, NoReplicas, CannotSave, Busy, Loading, TakenRights, WrongPassword, Full),
]


@pytest.mark.parametrize("kind", TROUBLES, ids=lambda kind: kind.__name__)
def test_a_refusal_is_unavailable_and_over_when_it_is_over(
    kind: type[Trouble],
    server: Process,
    group: Group,
    open_store: Callable[..., RedisStore],
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.client.execute_command("ACL", "SETUSER", USER, *minimal_acl())
    store = open_store(f"redis://{kind.credentials}127.0.0.1:{server.port}/0")
    job = begin(store)
    write(job)
    trouble = kind(server, group)
    trouble.begin()
    for _ in range(5):
        is_refused(lambda: write(job))
        if trouble.reads:
            assert set(store.snapshot("c1").tasks) == {"t1"}
        else:
            is_refused(lambda: store.snapshot("c1"))
    trouble.end()
    ended = time.monotonic()
    once_available(lambda: write(job), SOON)
    assert time.monotonic() - ended < SOON
    assert store.recovering
    said = logged(caplog.records)
    assert said.count("The store is unavailable") == 1
    assert re.search(trouble.says, said)
    assert PASSWORD not in said
    assert len(caplog.records) <= 4, said


# What a Cluster says


@pytest.fixture
def conversation(cluster: ClusterGroup) -> str:
    return f"c-{uuid4()}"


def started(store: RedisStore, conversation: str) -> Job:
    job = begin(store, a_session(f"s-{conversation}", conversation), a_task(f"t-{conversation}"))
    write(job)
    return job


def test_a_slot_that_has_moved_is_followed_without_a_word(
    cluster: ClusterGroup, open_store: Callable[..., RedisStore], conversation: str, caplog: pytest.LogCaptureFixture
) -> None:
    """MOVED: for every process that has not heard of it."""
    writing, reading = open_store(cluster.uri), open_store(cluster.uri)
    job = started(writing, conversation)
    reading.snapshot(conversation)
    for _ in range(5):
        cluster.migrate(slot_of(conversation))
        write(job)
        snapshot = reading.snapshot(conversation)
        assert snapshot.task(job.ref.task_id).tail == job.tail
        assert snapshot.task(job.ref.task_id).state is TaskState.RUNNING
    assert not reading.recovering
    assert not caplog.records


def test_while_a_slot_moves_no_script_works_on_half_of_its_keys(
    cluster: ClusterGroup, open_store: Callable[..., RedisStore], conversation: str
) -> None:
    """ASK and TRYAGAIN: keys lie here and there; status reads are answered from where the conversation's hash is."""
    store = open_store(cluster.uri)
    job = started(store, conversation)
    slot = slot_of(conversation)
    source = cluster.owner(slot)
    target = next(each for each in cluster.data if each is not source and each.client.role()[0] == b"master")
    with cluster.moving(slot, source, target) as keys:
        for _ in keys:
            is_refused(lambda: write(job))
            is_refused(lambda: store.begin(job.session, a_task("another")))
            assert store.snapshot(conversation).task(job.ref.task_id).tail == 1
        assert not source.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10)
    once_available(lambda: write(job), SOON)
    assert [event.cursor.number for event in job.page().events] == [1, 2]  # type: ignore[union-attr]
    assert set(store.snapshot(conversation).tasks) == {job.ref.task_id}


def test_a_slot_that_nobody_serves_is_unavailable_until_somebody_does(
    cluster: ClusterGroup, open_store: Callable[..., RedisStore], conversation: str
) -> None:
    """CLUSTERDOWN."""
    store = open_store(cluster.uri)
    job = started(store, conversation)
    slot = slot_of(conversation)
    owner = cluster.owner(slot)
    for server in cluster.data:
        server.client.config_set("cluster-require-full-coverage", "no")
        server.client.execute_command("CLUSTER", "DELSLOTS", slot)
    for _ in range(3):
        is_refused(lambda: write(job))
        is_refused(lambda: store.snapshot(conversation))
    owner.client.execute_command("CLUSTER", "ADDSLOTS", slot)
    once_available(lambda: write(job), SOON)
    cluster.wait_until_whole()


def test_each_node_of_a_cluster_is_sent_the_scripts_that_it_has_forgotten(
    cluster: ClusterGroup, open_store: Callable[..., RedisStore]
) -> None:
    """NOSCRIPT: on some nodes, in the middle of calls to all of them."""
    store = open_store(cluster.uri)
    jobs = [started(store, f"c-{number}-{uuid4()}") for number in range(12)]
    for server in cluster.data[:2]:
        server.client.script_flush()
    answers = store.append([Append(job.ref, 1, job.epoch, 1, 0, [("token", "{}")]) for job in jobs])
    assert [answer.number for answer in answers] == [2] * 12  # type: ignore[union-attr]


def test_a_node_that_is_away_takes_only_its_own_conversations_away(
    cluster: ClusterGroup, open_store: Callable[..., RedisStore]
) -> None:
    store = open_store(cluster.uri)
    jobs = [started(store, f"c-{number}-{uuid4()}") for number in range(12)]
    gone = cluster.owner(slot_of(jobs[0].ref.conversation_id))
    theirs = [cluster.owner(slot_of(job.ref.conversation_id)) is gone for job in jobs]
    assert 0 < sum(theirs) < 12
    gone.pause()
    try:
        for attempt in range(12):
            began = time.monotonic()
            answers = store.append([Append(job.ref, 1, job.epoch, 1, 0, [("token", "{}")]) for job in jobs])
            assert [isinstance(answer, StoreUnavailable) for answer in answers] == theirs
            assert time.monotonic() - began < (0.3 if attempt else SOON), "the others waited for one that is away"
            time.sleep(0.1)
    finally:
        gone.go_on()
    once_available(lambda: write(jobs[0]), SOON)


@pytest.mark.alone
def test_a_cluster_that_hangs_entirely_holds_nobody_up(
    cluster: ClusterGroup, open_store: Callable[..., RedisStore]
) -> None:
    store = open_store(cluster.uri)
    jobs = [started(store, f"c-{number}-{uuid4()}") for number in range(12)]

    def ask(job: Job) -> tuple[bool, float]:
        began = time.monotonic()
        try:
            store.snapshot(job.ref.conversation_id)
        except StoreUnavailable:
            return False, time.monotonic() - began
        return True, time.monotonic() - began

    for server in cluster.data:
        server.pause()
    try:
        first = at_once(*(partial(ask, jobs[number % 12]) for number in range(200)))
        again = at_once(*(partial(ask, jobs[number % 12]) for number in range(200)))
    finally:
        for server in cluster.data:
            server.go_on()
    back = time.monotonic()
    for job in jobs:
        once_available(lambda job=job: write(job), SOON)
    assert time.monotonic() - back < SOON
    assert not any(answered for answered, _ in first + again)
    assert max(seconds for _, seconds in first + again) < 2
    assert sum(seconds > 0.3 for _, seconds in again) <= 6, "a trial and a question for the map, for each node"
