"""Another program's sessions are found again, and followed on, when the servers that they lie on are others."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from existing import Following, Program, Viewer
from redis.crc import key_slot
from servers import RedisServer, newest
from topologies import CREDENTIALS, ClusterGroup, SentinelGroup, wait_for

SOON = 500
"""Milliseconds: a primary that is silent for so long is failed over."""


class OnSentinel:
    def __init__(self) -> None:
        self.group = SentinelGroup(SOON)

    def program(self) -> Program:
        return Program(f"redis://127.0.0.1:{self.group.primary.port}/0")

    def strike(self, key: str) -> None:
        old = self.group.primary
        old.kill()
        wait_for(lambda: self.group.primary is not old, "another primary", 30)
        new = self.group.primary
        wait_for(lambda: new.client.role()[0] == b"master", "its promotion")
        old.launch("--replicaof", "127.0.0.1", str(new.port))


class OnCluster:
    def __init__(self, timeout: int = SOON) -> None:
        self.group = ClusterGroup(timeout)

    def program(self) -> Program:
        return Program(self.group.uri.replace(f"{CREDENTIALS}@", ""))

    def strike(self, key: str) -> None:
        slot = key_slot(key.encode())
        old = self.group.owner(slot)
        old.kill()
        wait_for(lambda: self.group.owner(slot) is not old, "another owner", 30)
        old.launch()


@pytest.fixture(params=[OnSentinel, OnCluster], ids=["behind-sentinels", "on-a-cluster"])
def servers(request: pytest.FixtureRequest) -> Iterator[Any]:
    servers = request.param()
    yield servers
    servers.group.remove()


@pytest.fixture
def started() -> Iterator[list[Any]]:
    started: list[Any] = []
    yield started
    for each in started:
        each.close()


def is_there(viewer: Viewer, conversation: str) -> Callable[[], bool]:
    return lambda: viewer.conversation(conversation, "active-session").status_code == 200


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_after_a_failover_new_sessions_are_seen_and_old_ones_followed_on(servers: Any, started: list[Any]) -> None:
    before = servers.program()
    viewer = Viewer(servers.group.uri.replace(f"{CREDENTIALS}@", ""))
    started += [before, viewer]
    before.start("c1", "r1")
    viewer.until(is_there(viewer, "c1"))
    following = Following(viewer.resume("c1", "r1"))
    following.wait_for("event: start")
    time.sleep(0.2)  # what was not replicated is lost to everybody
    servers.strike("chat:stream:c1:r1")
    after = servers.program()
    started.append(after)
    wait_for(lambda: servers.group.wait_until_whole() is None, "the servers", 60)
    after.chunk("c1", "r1", "after the failover")
    following.wait_for("after the failover", 15)
    for number in range(20):
        after.start(f"new-{number}", "r1")
    for number in range(20):
        viewer.until(is_there(viewer, f"new-{number}"), 15)
    began = time.monotonic()
    after.start("last", "r1")
    viewer.until(is_there(viewer, "last"))
    assert time.monotonic() - began < 1
    after.end("c1", "r1")
    assert [frame["event"] for frame in following.finish()] == ["start", "chunk", "end"]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_session_whose_slot_moves_stays_and_is_followed_on(started: list[Any]) -> None:
    servers = OnCluster(5000)
    try:
        program, viewer = servers.program(), Viewer(servers.group.uri.replace(f"{CREDENTIALS}@", ""))
        started += [program, viewer]
        program.start("c1", "r1")
        viewer.until(is_there(viewer, "c1"))
        following = Following(viewer.resume("c1", "r1"))
        following.wait_for("event: start")
        for turn in range(5):
            servers.group.migrate(key_slot(b"chat:stream:c1:r1"))
            program.chunk("c1", "r1", f"turn {turn}")
            following.wait_for(f"turn {turn}", 10)
            viewer.until(is_there(viewer, "c1"))
            servers.group.wait_until_whole()
        program.end("c1", "r1")
        assert len(following.finish()) == 7
    finally:
        servers.group.remove()


def test_a_server_that_hangs_and_goes_on_is_heard_again(started: list[Any]) -> None:
    server = RedisServer(newest())
    server.start()
    try:
        program, viewer = Program(server.url), Viewer(server.url)
        started += [program, viewer]
        program.start("c1", "r1")
        viewer.until(is_there(viewer, "c1"))
        assert server._process is not None
        server._process.send_signal(signal.SIGSTOP)
        assert viewer.conversation("c1", "active-session").status_code == 503
        time.sleep(4)  # longer than a listener waits for a sign of life
        server._process.send_signal(signal.SIGCONT)
        program.start("c2", "r1")
        viewer.until(is_there(viewer, "c2"), 10)
    finally:
        server.remove()
