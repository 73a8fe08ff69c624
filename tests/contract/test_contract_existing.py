"""How other programs' sessions are found, on every topology: one scan, then what the server tells; breaks, refusals,
bounds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import topologies
from existing import KEYS, Following, Program, Viewer
from servers import Proxy, RedisServer, executable, newest
from topologies import CREDENTIALS, PASSWORD, USER, AclGroup, minimal_acl

from flask_sessionstatus import ConfigurationError
from flask_sessionstatus.stores import ExistingKeys
from flask_sessionstatus.stores.existing_keys import listener
from flask_sessionstatus.stores.existing_keys.index import Index
from flask_sessionstatus.stores.existing_keys.templates import Place

Group = Callable[[str], Any]
MakeViewer = Callable[..., Viewer]
ON = ("redis-6.2", "redis-7", "cluster", "sentinel")


@pytest.fixture(params=ON)
def uri(request: pytest.FixtureRequest, redis_url: Callable[[str], str], group: Group) -> str:
    if request.param.startswith("redis-"):
        return redis_url(request.param)
    return str(group(request.param).uri).replace(f"{CREDENTIALS}@", "")


@pytest.fixture
def program(uri: str, request: pytest.FixtureRequest, group: Group) -> Iterator[Program]:
    """The chat back end, in a process of its own; it knows of no Sentinels."""
    on_sentinel = uri.startswith("redis+sentinel")
    program = Program(f"redis://127.0.0.1:{group('sentinel').primary.port}/0" if on_sentinel else uri)
    program.flushall()
    yield program
    program.close()


@pytest.fixture
def make_viewer(uri: str) -> Iterator[MakeViewer]:
    made: list[Viewer] = []

    def make(at: str = uri, **options: Any) -> Viewer:
        made.append(Viewer(at, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def viewer(make_viewer: MakeViewer, program: Program) -> Viewer:
    viewer = make_viewer()
    viewer.begin()
    return viewer


# On every topology


def test_sessions_that_were_there_are_found_wherever_they_lie(make_viewer: MakeViewer, program: Program) -> None:
    for number in range(30):
        program.answer(f"c{number}", f"conversation:user{number}:msg1", 1)
    viewer = make_viewer()
    viewer.until(lambda: viewer.conversation("c0", "active-session").status_code == 200)
    for number in range(30):
        assert viewer.active(f"c{number}")["sessionId"] == f"conversation:user{number}:msg1"
    assert len(viewer.index) == 30


def test_new_sessions_are_seen_in_a_moment_followed_and_stopped(viewer: Viewer, program: Program) -> None:
    for number in range(10):
        conversation = f"c{number}"
        program.send("answer", conversation, "a:b", 500, 0.005)
        asked_at = time.monotonic()
        viewer.until(lambda conversation=conversation: viewer.index.sessions(conversation))
        assert time.monotonic() - asked_at < 1
        viewer.until(lambda conversation=conversation: viewer.active(conversation)["status"] == "active")
        following = Following(viewer.resume(conversation, "a:b"))
        following.wait_for("word1 ")
        assert viewer.conversation(conversation, "stop", "POST").status_code == 202
        program.reply()
        found = following.finish()
        assert [frame["data"]["content"] for frame in found[2:-1]] == [f"word{n} " for n in range(len(found) - 3)]
        assert found[-1]["data"]["state"] == "cancelled"
        assert viewer.active(conversation)["status"] == "idle"


def test_deleted_and_expired_keys_leave_the_index(viewer: Viewer, program: Program) -> None:
    for number in range(20):
        program.start(f"c{number}", "r1")
    viewer.until(lambda: len(viewer.index) == 20)
    for number in range(10):
        program.delete(f"c{number}", "r1")
    for number in range(10, 15):
        program.expire(f"c{number}", "r1", 300)
    viewer.until(lambda: len(viewer.index) == 5, 10)
    for number in range(15):
        assert viewer.conversation(f"c{number}", "active-session").status_code == 404
    program.flushall()
    viewer.until(lambda: len(viewer.index) == 0, 10)


def test_a_program_can_announce_a_key_in_one_line(
    make_viewer: MakeViewer, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ExistingKeys, "watched", ["nothing:that:is:written"])
    viewer = make_viewer()
    viewer.begin()
    program.start("c1", "r1")
    program.publish("sessionstatus:existing", "chat:stream:c1:r1")
    viewer.until(lambda: viewer.conversation("c1", "active-session").status_code == 200)


# The first scan


def test_until_the_first_scan_is_over_what_is_unknown_is_503(
    make_viewer: MakeViewer, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    program.start("c1", "r1")
    gate = threading.Event()
    scan = listener.Listener._scan

    def held(self: listener.Listener) -> Iterator[None]:
        while not gate.is_set():
            yield
        yield from scan(self)

    monkeypatch.setattr(listener.Listener, "_scan", held)
    viewer = make_viewer()
    try:
        for route in ("active-session", "task-status", "resume/r1", "stream"):
            response = viewer.conversation("c1", route)
            assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
        sse = viewer.conversation("c1", "stream", headers={"Accept": "text/event-stream"})
        assert (sse.status_code, sse.data) == (200, b"retry: 1000\n")
        began = time.monotonic()
        assert viewer.conversation("c1", "stop", "POST").status_code == 503
        assert time.monotonic() - began < 1
        program.start("c2", "r2")
        viewer.until(lambda: viewer.conversation("c2", "active-session").status_code == 200)
        with viewer.app.app_context(), viewer.extension.run("ours") as run:
            run.flush(5)
            assert viewer.active("ours")["status"] == "active"
    finally:
        gate.set()
    viewer.until(lambda: viewer.conversation("c1", "active-session").status_code == 200)
    viewer.begin()


def test_a_scan_that_never_ends_does_not_make_everything_unavailable_for_ever(
    make_viewer: MakeViewer, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(self: listener.Listener) -> Iterator[None]:
        while True:
            yield

    monkeypatch.setattr(listener.Listener, "_scan", endless)
    monkeypatch.setattr(listener, "PATIENCE", 0.5)
    viewer = make_viewer()
    assert viewer.until(lambda: viewer.conversation("c1", "active-session").status_code == 404) < 3


# Breaks


def test_after_a_break_what_was_not_heard_is_found_by_a_scan(viewer: Viewer, program: Program) -> None:
    program.start("c1", "r1")
    viewer.until(lambda: viewer.index.sessions("c1"))
    following = Following(viewer.resume("c1", "r1"))
    following.wait_for("event: start")
    for turn in range(3):
        program.kill_subscribers()
        program.start(f"new{turn}", "r1")
        program.chunk("c1", "r1", f"after {turn}")
        assert viewer.until(lambda turn=turn: viewer.index.sessions(f"new{turn}"), 10) < 5
        following.wait_for(f"after {turn}")
        viewer.until(lambda: viewer.conversation("nobody", "active-session").status_code == 404)
    program.end("c1", "r1")
    assert following.finish()[-1]["data"]["state"] == "completed"


def test_keys_that_were_deleted_during_a_break_leave_the_index(redis_url: Callable[[str], str]) -> None:
    url = redis_url("newest")
    proxy = Proxy(int(url.rpartition(":")[2].partition("/")[0]))
    program, viewer = Program(url), Viewer(proxy.url)
    try:
        program.flushall()
        program.start("c1", "r1")
        program.start("c2", "r2")
        viewer.until(lambda: viewer.conversation("c1", "active-session").status_code == 200)
        proxy.cut()
        program.delete("c1", "r1")
        program.start("c3", "r3")
        assert viewer.conversation("c1", "active-session").status_code == 503
        proxy.mend()
        viewer.until(lambda: viewer.index.sessions("c3") and not viewer.index.sessions("c1"), 10)
        assert viewer.active("c2")["sessionId"] == "r2"
    finally:
        viewer.close()
        program.close()
        proxy.close()


# Rights


def rules(*blocks: str) -> list[str]:
    return [rule for block in blocks for rule in minimal_acl(block)]


def test_the_user_of_the_documentation_can_do_all_of_it_and_no_more(group: Group) -> None:
    acl: AclGroup = group("acl")
    server = acl.processes[0]
    server.client.execute_command(
        "ACL", "SETUSER", "viewer", *rules("acl"), *minimal_acl("acl existing keys", "existing_keys.md")
    )
    program = Program(f"redis://127.0.0.1:{server.port}/0")
    viewer = Viewer(acl.uri.replace(CREDENTIALS.partition(":")[0], "viewer", 1))
    client = server.client_as(username="viewer", password=PASSWORD)
    try:
        program.flushall()
        program.answer("c0", "a:b", 1)
        assert viewer.active("c0")["status"] == "completed"
        program.send("answer", "c1", "r1", 500, 0.005)
        viewer.until(lambda: viewer.index.sessions("c1"))
        viewer.until(lambda: viewer.active("c1")["status"] == "active")
        following = Following(viewer.resume("c1", "r1"))
        following.wait_for("word1 ")
        assert viewer.conversation("c1", "stop", "POST").status_code == 202
        program.reply()
        assert following.finish()[-1]["data"]["state"] == "cancelled"
        server.client.hset("task:status:c2:r2", "status", "error")
        program.emit("c2", "r2", "start")
        viewer.until(lambda: viewer.index.sessions("c2"))
        assert viewer.active("c2")["status"] == "idle"
        for command in (
            ("XADD", "chat:stream:c1:r1", "*", "a", "b"),
            ("DEL", "chat:stream:c1:r1"),
            ("SET", "task:status:c1:r1", "error"),
            ("EXPIRE", "task:status:c1:r1", "1"),
            ("KEYS", "*"),
            ("GET", "other"),
            ("CLIENT", "LIST"),
            ("XINFO", "GROUPS", "chat:stream:c1:r1"),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command)
    finally:
        viewer.close()
        program.close()
        client.close()
        server.client.execute_command("ACL", "DELUSER", "viewer")


def test_on_6_2_that_user_reads_and_writes_for_want_of_a_right_to_read_alone() -> None:
    group = topologies.Group()
    server = group.server(executable=executable("redis-6.2"))
    server.wait()
    allowed = [rule.replace("%R~", "~") for rule in rules("acl") + minimal_acl("acl existing keys", "existing_keys.md")]
    server.client.execute_command("ACL", "SETUSER", USER, *allowed)
    program = Program(f"redis://127.0.0.1:{server.port}/0")
    viewer = Viewer(f"redis://{CREDENTIALS}@127.0.0.1:{server.port}/0")
    try:
        viewer.begin("c1")
        program.start("c1", "a:b")
        assert viewer.until(lambda: viewer.conversation("c1", "active-session").status_code == 200) < 1
        assert viewer.conversation("c1", "stop", "POST").status_code == 202
        assert program.is_cancelled("c1", "a:b")
    finally:
        viewer.close()
        program.close()
        group.remove()


@pytest.mark.parametrize("withheld", [["-client|tracking"], ["-client"], ["resetchannels", "&sessionstatus:*"]])
def test_where_the_server_may_not_tell_scans_and_ticks_do(
    group: Group, withheld: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listener, "RESCAN", 0.3)
    acl: AclGroup = group("acl")
    server = acl.processes[0]
    allowed = [*rules("acl"), *minimal_acl("acl existing keys", "existing_keys.md"), *withheld]
    server.client.execute_command("ACL", "SETUSER", "viewer", *allowed)
    program = Program(f"redis://127.0.0.1:{server.port}/0")
    viewer = Viewer(acl.uri.replace(CREDENTIALS.partition(":")[0], "viewer", 1))
    try:
        program.flushall()
        viewer.begin("c1")
        program.start("c1", "r1")
        viewer.until(lambda: viewer.conversation("c1", "active-session").status_code == 200)
        following = Following(viewer.resume("c1", "r1"))
        following.wait_for("event: start")
        program.chunk("c1", "r1", "x")
        following.wait_for('"x"')
        program.end("c1", "r1")
        assert [frame["event"] for frame in following.finish()] == ["start", "chunk", "end"]
        program.delete("c1", "r1")
        viewer.until(lambda: len(viewer.index) == 0)
        assert "The server does not tell of other programs' keys" in caplog.text
    finally:
        viewer.close()
        program.close()
        server.client.execute_command("ACL", "DELUSER", "viewer")


def test_without_the_right_to_scan_what_is_written_from_now_on_is_seen(
    group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    acl: AclGroup = group("acl")
    server = acl.processes[0]
    allowed = [*rules("acl"), *minimal_acl("acl existing keys", "existing_keys.md"), "-scan"]
    server.client.execute_command("ACL", "SETUSER", "viewer", *allowed)
    program = Program(f"redis://127.0.0.1:{server.port}/0")
    viewer = Viewer(acl.uri.replace(CREDENTIALS.partition(":")[0], "viewer", 1))
    try:
        program.flushall()
        program.start("c1", "r1")
        viewer.begin("c1")
        program.start("c1", "r1")
        viewer.until(lambda: viewer.conversation("c1", "active-session").status_code == 200)
        assert "The keys cannot be scanned" in caplog.text
    finally:
        viewer.close()
        program.close()
        server.client.execute_command("ACL", "DELUSER", "viewer")


def test_without_the_right_to_read_them_it_is_503_and_never_404(group: Group, caplog: pytest.LogCaptureFixture) -> None:
    acl: AclGroup = group("acl")
    server = acl.processes[0]
    server.client.execute_command(
        "ACL", "SETUSER", "viewer", *rules("acl"), *minimal_acl("acl existing keys", "existing_keys.md")
    )
    program = Program(f"redis://127.0.0.1:{server.port}/0")
    viewer = Viewer(acl.uri.replace(CREDENTIALS.partition(":")[0], "viewer", 1))
    try:
        program.flushall()
        program.start("c1", "r1")
        assert viewer.active("c1")["sessionId"] == "r1"
        server.client.execute_command("ACL", "SETUSER", "viewer", "resetkeys", "~sessionstatus:*")
        assert viewer.conversation("c1", "active-session").status_code == 503
    finally:
        viewer.close()
        program.close()
        server.client.execute_command("ACL", "DELUSER", "viewer")


# Bounds


def test_the_index_forgets_what_it_found_first_once_it_is_full(caplog: pytest.LogCaptureFixture) -> None:
    index = Index(3)
    for number in range(5):
        assert index.add(Place(f"c{number}", "r"))
    assert [index.sessions(f"c{number}") for number in range(5)] == [[], [], ["r"], ["r"], ["r"]]
    assert (len(index), index.conversations("r")) == (3, ["c2", "c3", "c4"])
    assert len(caplog.records) == 1


def test_the_index_keeps_conversations_and_sessions_in_step() -> None:
    index = Index()
    places = [Place(f"c{number % 3}", f"r{number % 5}") for number in range(15)]
    assert all(index.add(place) for place in places)
    assert not any(index.add(place) for place in places)
    assert index.sessions("c0") == ["r0", "r3", "r1", "r4", "r2"]
    assert sorted(index.places()) == sorted(places)
    for left, place in zip(range(14, -1, -1), places):
        index.discard(place)
        index.discard(place)
        assert (place in index, len(index)) == (False, left)
    assert (index.sessions("c0"), index.conversations("r0")) == ([], [])


def test_a_hundred_thousand_sessions_take_less_than_a_kilobyte_each() -> None:
    import tracemalloc

    tracemalloc.start()
    index = Index()
    for number in range(100_000):
        index.add(Place(f"019953dd-6de7-7f7a-bf64-{number:012}", f"conversation:user{number}:msg{number}"))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken / len(index) < 1000


# A hundred thousand of them


@pytest.fixture(scope="module")
def crowded() -> Iterator[RedisServer]:
    """A server with 100,000 sessions of another program."""
    server = RedisServer(newest())
    server.start()
    program = Program(server.url)
    program.fill(100_000)
    program.close()
    yield server
    server.remove()


def test_among_a_hundred_thousand_a_new_session_is_seen_at_once_and_nothing_is_searched_for(
    crowded: RedisServer,
) -> None:
    program, viewer, client = Program(crowded.url), Viewer(crowded.url), crowded.client()
    try:
        ready = viewer.until(lambda: viewer.conversation("nobody", "active-session").status_code == 404, 30)
        assert ready < 20
        assert len(viewer.index) == 100_000
        times = []
        with client.monitor() as monitor:
            for number in range(20):
                sent = time.monotonic()
                program.start(f"new-{number}", "r1")
                conversation = f"new-{number}"
                viewer.until(
                    lambda conversation=conversation: (
                        viewer.conversation(conversation, "active-session").status_code == 200
                    )
                )
                times.append(time.monotonic() - sent)
            reads = []
            for number in range(500):
                began = time.perf_counter()
                viewer.active(f"conversation-{number * 97}")
                reads.append(time.perf_counter() - began)
            client.echo("over")
            names = set()
            for command in monitor.listen():
                name = command["command"].split()[0].upper()
                names.add(name)
                if name == "ECHO":
                    break
        assert max(times) < 1
        assert sorted(reads)[int(len(reads) * 0.95)] < 0.2  # 20 ms where nothing else runs: benchmarks/existing_keys.py
        assert not names & {"KEYS", "SCAN"}
    finally:
        viewer.close()
        program.close()
        client.close()


# What cannot be


def test_hosts_with_owners_must_say_who_may_see_what_has_none() -> None:
    from flask import Flask

    from flask_sessionstatus import SessionStatus

    app = Flask("host")
    app.config.update(SESSIONSTATUS_STORAGE_URI="redis://127.0.0.1:1", SESSIONSTATUS_EXISTING_KEYS=KEYS)
    with pytest.raises(ConfigurationError, match=r"SESSIONSTATUS_EXISTING_KEYS.*can_access"):
        SessionStatus(app, identify=lambda: "u1")
    late = Flask("host")
    late.config.update(app.config)
    extension = SessionStatus(late)

    @extension.identify
    def identify() -> str:
        return "u1"

    late.register_blueprint(extension.create_blueprint())
    with late.app_context(), pytest.raises(ConfigurationError, match="can_access"):
        _ = late.extensions["sessionstatus"].store


def test_memory_has_no_keys_of_other_programs() -> None:
    with pytest.raises(ConfigurationError, match=r"SESSIONSTATUS_EXISTING_KEYS.*memory://"):
        Viewer("memory://")


def test_a_server_that_is_away_is_503_and_its_sessions_are_seen_when_it_is_there() -> None:
    server = RedisServer(newest())
    viewer = Viewer(server.url)
    try:
        assert viewer.conversation("c1", "active-session").status_code == 503
        server.start()
        program = Program(server.url)
        program.start("c1", "r1")
        viewer.until(lambda: viewer.conversation("c1", "active-session").status_code == 200, 10)
        program.close()
    finally:
        viewer.close()
        server.remove()


def test_the_fallback_into_memory_takes_nothing_of_theirs_for_its_own() -> None:
    server = RedisServer(newest())
    server.start()
    program, viewer = Program(server.url), Viewer(server.url, in_memory_fallback=True)
    try:
        viewer.begin()
        for conversation in ("c1", "c2", "c3"):
            program.start(conversation, f"{conversation}:r1")
            viewer.until(lambda conversation=conversation: viewer.inner.sessions(conversation))
            assert viewer.active(conversation)["status"] == "active"
        with viewer.app.app_context():
            viewer.extension.sessions.create("c3", "idle")
        assert viewer.active("c3")["sessionId"] == "c3:r1"
        program.chunk("c1", "c1:r1", "x")
        following = Following(viewer.resume("c1", "c1:r1"))
        following.wait_for('"x"')
        for _ in range(2):
            assert viewer.get("/sessions/c1:r1").status_code == 200
            assert viewer.get("/sessions/c1:r1/tasks/c1:r1").status_code == 200
        assert viewer.conversation("c2", "stop", "POST").status_code == 202
        program.end("c1", "c1:r1")
        assert following.finish()[-1]["data"]["state"] == "completed"
        server.stop()
        away = viewer.conversation("c1", "active-session")
        assert (away.status_code in (404, 503), away.headers["SessionStatus-Degraded"]) == (True, "memory")
        assert viewer.conversation("c2", "stop", "POST").status_code in (404, 503)
        # What ran beside a session of our own may run on: nobody here can know.
        assert viewer.conversation("c3", "active-session").status_code == 503
        assert viewer.get("/sessions/idle").status_code == 200
        with viewer.app.app_context(), viewer.extension.run("c1", "ours") as run:
            run.emit("token", {"text": "a"})
            assert viewer.active("c1")["sessionId"] == "ours"
        server.start()
        viewer.until(lambda: "SessionStatus-Degraded" not in viewer.conversation("c1", "active-session").headers, 10)
        with server.client() as client:
            names = [key.decode() for key in client.keys("*")]
        assert [name for name in names if "r1" in name] == []
        assert any("ours" in name for name in names)
    finally:
        viewer.close()
        program.close()
        server.remove()


def test_a_process_that_only_works_looks_for_nothing(redis_url: Callable[[str], str]) -> None:
    viewer = Viewer(redis_url("newest"))
    try:
        with viewer.app.app_context(), viewer.extension.run("c1") as run:
            run.emit("token", {"text": "a"})
            run.check_cancelled()
            run.flush(5)
        assert [each for each in threading.enumerate() if each.name == "sessionstatus-existing"] == []
    finally:
        viewer.close()


def test_the_end_of_the_app_ends_its_threads(viewer: Viewer) -> None:
    def running() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each.name == "sessionstatus-existing"]

    assert running()
    began = time.monotonic()
    viewer.close()
    assert time.monotonic() - began < 2
    assert running() == []
    assert viewer.store.snapshot("nobody").sessions == {}  # and its next use begins anew
