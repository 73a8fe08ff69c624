"""Sessions that another program keeps in Redis, over the routes: what that program's own endpoints got wrong, row by
row (P of the inventory), on the oldest and the newest server."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from existing import Following, Program, Viewer
from hosts import events, frames

from flask_sessionstatus.models import ORIGIN
from flask_sessionstatus.stores.base import TaskRef

MakeViewer = Callable[..., Viewer]
T = 1_704_123_456_789
STREAM, STATUS, CANCEL = "chat:stream:{}:{}", "task:status:{}:{}", "cancel:{}:{}"


@pytest.fixture(params=["redis-6.2", "redis-7"])
def uri(request: pytest.FixtureRequest, redis_url: Callable[[str], str]) -> str:
    return redis_url(request.param)


@pytest.fixture
def raw(uri: str) -> Iterator[redis.Redis]:
    """What writes entries with ids and fields of the test's choice."""
    with redis.Redis.from_url(uri, socket_timeout=5) as client:
        client.flushall()
        yield client


@pytest.fixture(scope="module")
def programs() -> Iterator[dict[str, Program]]:
    started: dict[str, Program] = {}
    yield started
    for each in started.values():
        each.close()


@pytest.fixture
def program(uri: str, raw: redis.Redis, programs: dict[str, Program]) -> Program:
    """The chat back end, in a process of its own."""
    if uri not in programs:
        programs[uri] = Program(uri)
    return programs[uri]


@pytest.fixture
def make_viewer(uri: str, raw: redis.Redis) -> Iterator[MakeViewer]:
    made: list[Viewer] = []

    def make(**options: Any) -> Viewer:
        made.append(Viewer(uri, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def viewer(make_viewer: MakeViewer) -> Viewer:
    viewer = make_viewer()
    viewer.begin()
    return viewer


def add(
    raw: redis.Redis, entry_id: str, conversation: str = "c1", run: str = "r1", type: str = "chunk", **fields: Any
) -> None:
    named = {"type": type, "conversation_id": conversation, "run_id": run, **fields}
    raw.xadd(STREAM.format(conversation, run), named, id=entry_id)


def until_known(viewer: Viewer, conversation: str = "c1", count: int = 1) -> None:
    viewer.until(lambda: len(viewer.index.sessions(conversation)) >= count)


def texts(found: list[dict[str, Any]]) -> list[str]:
    """What a reader of the frames sees: the contents of chunks, other frames by their event."""
    return [frame["data"]["content"] if frame["event"] == "chunk" else frame["event"] for frame in found]


# P3, P4: times and cursors


def test_times_are_those_of_the_entries_and_no_estimate_is_made_up(viewer: Viewer, raw: redis.Redis) -> None:
    add(raw, f"{T}-0", type="start")
    add(raw, f"{T + 5000}-3")
    raw.set(STATUS.format("c1", "r1"), "running", ex=600)
    until_known(viewer)
    for _ in range(2):
        body = viewer.active("c1")
        assert (body["startedAt"], body["lastActivity"]) == (T, T + 5000)
        assert viewer.conversation("c1", "task-status").json == {
            "isActive": True,
            "sessionId": "r1",
            "estimatedCompletion": None,
            "conversationId": "c1",
        }
    add(raw, f"{T + 9000}-0", type="end", status="completed", message="None")
    body = viewer.active("c1")
    assert (body["status"], body["startedAt"], body["lastActivity"]) == ("completed", T, T + 9000)
    status: Any = viewer.conversation("c1", "task-status").json
    assert (status["isActive"], status["estimatedCompletion"]) == (False, T + 9000)


@pytest.mark.parametrize(
    "created_at", [str(T), str(T / 1000), "2024-01-01T15:37:36.789+00:00", "2024-01-01T15:37:36.789Z"]
)
def test_a_trimmed_session_began_when_its_first_entry_was_made(
    viewer: Viewer, raw: redis.Redis, created_at: str
) -> None:
    add(raw, f"{T + 1000}-0", type="start")
    add(raw, f"{T + 5000}-0", content="x", created_at=created_at)
    raw.xtrim(STREAM.format("c1", "r1"), maxlen=1, approximate=False)
    until_known(viewer)
    body = viewer.active("c1")
    assert (body["startedAt"], body["lastActivity"]) == (T, T + 5000)


def test_what_was_known_of_a_begin_that_is_trimmed_since_is_kept(viewer: Viewer, raw: redis.Redis) -> None:
    add(raw, f"{T}-0", type="start")
    until_known(viewer)
    assert viewer.active("c1")["startedAt"] == T
    add(raw, f"{T + 5000}-0", content="x")
    raw.xtrim(STREAM.format("c1", "r1"), maxlen=1, approximate=False)
    assert viewer.active("c1")["startedAt"] == T


def test_a_session_that_is_made_again_begins_anew(viewer: Viewer, raw: redis.Redis) -> None:
    add(raw, f"{T}-0", type="start")
    until_known(viewer)
    assert viewer.active("c1")["startedAt"] == T
    raw.delete(STREAM.format("c1", "r1"))
    viewer.until(lambda: not viewer.index.sessions("c1"))
    for number in range(3):
        add(raw, f"{T + 5000 + number}-0")
    raw.xtrim(STREAM.format("c1", "r1"), maxlen=1, approximate=False)
    until_known(viewer)
    assert viewer.active("c1")["startedAt"] == T + 5002


def test_the_cursor_is_the_last_id_and_0_0_of_an_empty_stream(viewer: Viewer, raw: redis.Redis) -> None:
    add(raw, f"{T}-0")
    until_known(viewer)
    assert viewer.active("c1")["cursor"] == f"{T}-0"
    add(raw, f"{T}-41")
    assert viewer.active("c1")["cursor"] == f"{T}-41"
    raw.xtrim(STREAM.format("c1", "r1"), maxlen=0, approximate=False)
    body = viewer.active("c1")
    assert (body["cursor"], body["lastActivity"]) == ("0-0", T)


def test_a_stream_that_nothing_was_ever_written_to_is_no_session(viewer: Viewer, raw: redis.Redis) -> None:
    raw.xgroup_create(STREAM.format("c1", "r1"), "readers", mkstream=True)
    until_known(viewer)
    assert viewer.conversation("c1", "active-session").status_code == 404


# P6: seen at once, every status, and nothing of theirs is changed


def test_a_session_is_seen_at_once_without_any_change_to_its_program(viewer: Viewer, program: Program) -> None:
    first = program.queue("c1", "conversation:user123:msg456")
    assert viewer.until(lambda: viewer.conversation("c1", "active-session").status_code == 200) < 1
    assert viewer.active("c1") == {
        "sessionId": "conversation:user123:msg456",
        "status": "active",
        "cursor": first,
        "conversationId": "c1",
        "startedAt": int(first.partition("-")[0]),
        "lastActivity": int(first.partition("-")[0]),
    }


def test_what_was_there_before_this_process_is_found(make_viewer: MakeViewer, program: Program) -> None:
    program.answer("c1", "r1", 3)
    assert make_viewer().active("c1")["status"] == "completed"


WORDS = [
    ("queued", "active", True),
    ("pending", "active", True),
    ("running", "active", True),
    ("RUNNING", "active", True),
    ("completed", "completed", False),
    ("error", "idle", False),
    ("cancelled", "idle", False),
]


@pytest.mark.parametrize("form", ["text", "JSON text", "JSON object", "hash"])
@pytest.mark.parametrize(("word", "status", "active"), WORDS)
def test_each_raw_status_in_each_form(
    viewer: Viewer, raw: redis.Redis, word: str, status: str, active: bool, form: str
) -> None:
    key = STATUS.format("c1", "r1")
    add(raw, f"{T}-0", type="start")
    if form == "hash":
        raw.hset(key, mapping={"status": word, "progress": "3"})
    else:
        raw.set(key, {"text": word, "JSON text": json.dumps(word)}.get(form, json.dumps({"status": word})))
    until_known(viewer)
    for _ in range(2):
        assert viewer.active("c1")["status"] == status
        body: Any = viewer.conversation("c1", "task-status").json
        assert body["isActive"] is active


@pytest.mark.parametrize(
    ("word", "type", "state"),
    [
        ("queued", "queued", "pending"),
        ("queued", "start", "running"),
        ("pending", "chunk", "running"),
        ("running", "start", "running"),
        ("running", "queued", "running"),
        (None, "queued", "pending"),
        (None, "start", "running"),
    ],
)
def test_what_waits_is_told_from_what_has_begun(
    viewer: Viewer, raw: redis.Redis, word: str | None, type: str, state: str
) -> None:
    if word is not None:
        raw.set(STATUS.format("c1", "r1"), word)
    add(raw, f"{int(time.time() * 1000)}-0", type=type)
    until_known(viewer)
    task: Any = viewer.get("/sessions/r1/tasks/r1").json
    assert (task["state"], task["startedAt"] is None) == (state, state == "pending")


@pytest.mark.parametrize("word", ["dancing", "", "None", "{", '{"state": "running"}', "\xff"])
def test_a_status_that_says_nothing_leaves_it_to_the_stream(viewer: Viewer, raw: redis.Redis, word: str) -> None:
    raw.set(STATUS.format("c1", "r1"), word.encode("latin-1"))
    add(raw, f"{T}-0", type="start")
    until_known(viewer)
    assert viewer.active("c1")["status"] == "idle"  # it has said nothing for years
    raw.delete(STREAM.format("c1", "r1"))
    add(raw, f"{int(time.time() * 1000)}-0", type="start")
    assert viewer.active("c1")["status"] == "active"


def test_a_status_of_another_type_is_no_status(viewer: Viewer, raw: redis.Redis) -> None:
    raw.rpush(STATUS.format("c1", "r1"), "running")
    add(raw, f"{int(time.time() * 1000)}-0", type="start")
    until_known(viewer)
    assert viewer.active("c1")["status"] == "active"


def test_texts_and_hashes_side_by_side(viewer: Viewer, raw: redis.Redis) -> None:
    for run, word in (("r1", "completed"), ("r2", "error"), ("r3", "completed")):
        add(raw, f"{T}-{run[1]}", "c1", run)
        if run == "r2":
            raw.hset(STATUS.format("c1", run), "status", word)
        else:
            raw.set(STATUS.format("c1", run), word)
    until_known(viewer, count=3)
    for _ in range(3):
        states = {
            run: viewer.get(f"/sessions/{run}").json["latestTask"]["state"]  # type: ignore[index]
            for run in ("r1", "r2", "r3")
        }
        assert states == {"r1": "completed", "r2": "error", "r3": "completed"}
        assert viewer.active("c1")["sessionId"] == "r3"


READS = {"XINFO", "PTTL", "GET", "HGET", "XRANGE", "XREVRANGE", "EXISTS", "TIME"}


def monitored(raw: redis.Redis, work: Callable[[], None]) -> list[list[str]]:
    """The commands that the server was given meanwhile, in words."""
    with raw.monitor() as monitor:
        work()
        raw.echo("over")
        said = []
        for command in monitor.listen():
            words = command["command"].split()
            said.append(words)
            if words == ["ECHO", "over"]:
                return said
    raise AssertionError("the monitor was closed")


def test_nothing_of_theirs_is_ever_written_but_the_cancel_key(
    viewer: Viewer, raw: redis.Redis, program: Program
) -> None:
    program.queue("c1", "r1")
    until_known(viewer)

    def use() -> None:
        stream = Following(viewer.resume("c1", "r1"))
        viewer.active("c1")
        viewer.conversation("c1", "task-status")
        assert viewer.conversation("c1", "stop", "POST").status_code == 202
        for path in ("", "/tasks", "/tasks/r1", "/tasks/r1/events", "/messages", "/stats"):
            assert viewer.get(f"/sessions/r1{path}").status_code == 200
        raw.xadd(STREAM.format("c1", "r1"), {"type": "end", "status": "completed"})
        stream.finish()

    theirs = [
        words for words in monitored(raw, use) if re.search(r"(chat:stream|task:status|cancel):", " ".join(words))
    ]
    ours = [words for words in theirs if words[0].upper() not in READS and words[0] != "XADD"]
    assert ours == [["SET", "cancel:c1:r1", "true", "EX", "300"]]
    assert 290 < raw.ttl(CANCEL.format("c1", "r1")) <= 300  # type: ignore[operator]


def test_it_can_be_read_and_stopped_and_not_changed(viewer: Viewer, raw: redis.Redis) -> None:
    add(raw, f"{T}-0")
    until_known(viewer)
    client = viewer.app.test_client()
    for response in (
        client.patch("/sessions/r1", json={"language": "en"}),
        client.delete("/sessions/r1"),
        client.post("/sessions/r1/messages", json={"role": "user", "content": "x"}),
    ):
        assert response.status_code == 403
        assert response.json == {
            "error": "The session is another program's: it can be read and stopped only.",
            "sessionId": "r1",
        }
    assert raw.exists(STREAM.format("c1", "r1"))
    assert client.delete("/sessions/r2").status_code == 404


# P7: no search among the keys


def test_no_id_is_a_pattern(viewer: Viewer, raw: redis.Redis) -> None:
    for conversation in ("c1", "c2", "*", "[c]1"):
        add(raw, f"{T}-0", conversation, f"of {conversation}")
    for conversation in ("*", "[c]1"):
        until_known(viewer, conversation)
        assert viewer.active(conversation)["sessionId"] == f"of {conversation}"
    for conversation in ("c*", "?1", "c?", "[c]2", "c\\1", "**"):
        assert viewer.conversation(conversation, "active-session").status_code == 404
        assert viewer.conversation(conversation, "task-status").status_code == 404
        assert viewer.resume(conversation, "*").status_code == 404


def test_a_template_with_a_pattern_in_it_is_taken_literally(make_viewer: MakeViewer, raw: redis.Redis) -> None:
    keys = {"stream": "a*[b]:{conversation_id}:{session_id}"}
    raw.xadd("a*[b]:c1:r1", {"type": "start"}, id=f"{T}-0")
    raw.xadd("axb:c1:r2", {"type": "start"}, id=f"{T}-0")
    viewer = make_viewer(keys=keys)
    assert viewer.active("c1")["sessionId"] == "r1"
    assert viewer.index.sessions("c1") == ["r1"]


def test_keys_are_scanned_once_and_never_searched_by_a_request(
    make_viewer: MakeViewer, raw: redis.Redis, program: Program
) -> None:
    program.fill(2000)
    viewer = make_viewer()
    at_start = monitored(raw, lambda: viewer.active("conversation-0"))
    scans = [words for words in at_start if words[0] == "SCAN"]
    assert len(scans) >= 2000 // 256
    assert all(words[2:] == ["MATCH", "chat:stream:*", "COUNT", "256"] for words in scans)

    def use() -> None:
        for number in range(20):
            viewer.active(f"conversation-{number}")
            viewer.conversation(f"unknown-{number}", "active-session")
            viewer.conversation(f"unknown-{number}", "task-status")
            viewer.conversation(f"unknown-{number}", "stream")
        program.queue("new", "r1")
        viewer.until(lambda: viewer.conversation("new", "active-session").status_code == 200)
        program.answer("new", "r2", 20)
        viewer.until(lambda: viewer.active("new")["sessionId"] == "r1")

    commands = {words[0].upper() for words in [*at_start, *monitored(raw, use)]}
    assert "KEYS" not in commands
    assert "SCAN" not in {words[0].upper() for words in monitored(raw, use)}


# P8: the most recent by number


@pytest.mark.parametrize(
    ("earlier", "later"),
    [(f"{T}-9", f"{T}-10"), ("999-0", "1000-0"), (f"{T}-99", f"{T + 1}-0"), ("9-1", f"{T}-1")],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_the_most_recent_session_is_found_by_number(
    viewer: Viewer, raw: redis.Redis, earlier: str, later: str, swapped: bool
) -> None:
    older, newer = ("r2", "r1") if swapped else ("r1", "r2")
    add(raw, later, "c1", newer)
    add(raw, earlier, "c1", older)
    until_known(viewer, count=2)
    body = viewer.active("c1")
    assert (body["sessionId"], body["cursor"]) == (newer, later)


def test_what_runs_comes_before_what_was_written_to_later(viewer: Viewer, raw: redis.Redis) -> None:
    add(raw, f"{T}-0", "c1", "runs")
    raw.set(STATUS.format("c1", "runs"), "running")
    add(raw, f"{T + 10}-0", "c1", "over", type="end", status="completed")
    until_known(viewer, count=2)
    assert viewer.active("c1")["sessionId"] == "runs"
    raw.set(STATUS.format("c1", "runs"), "error")
    assert viewer.active("c1")["sessionId"] == "over"


def test_of_very_many_sessions_of_one_conversation_the_latest_is_found(viewer: Viewer, raw: redis.Redis) -> None:
    with raw.pipeline(transaction=False) as pipe:
        for number in range(600):
            pipe.xadd(STREAM.format("c1", f"r{number}"), {"type": "end"}, id=f"{T + number * 7 % 601}-0")
        pipe.execute()
    until_known(viewer, count=600)
    assert viewer.active("c1")["lastActivity"] == T + 600


def test_own_sessions_and_those_of_other_programs_share_a_conversation(viewer: Viewer, program: Program) -> None:
    program.queue("c1", "theirs")
    program.end("c1", "theirs")
    until_known(viewer)
    with viewer.app.app_context(), viewer.extension.run("c1", "ours") as run:
        run.emit("token", {"text": "a"})
        run.flush(5)
        assert viewer.active("c1")["sessionId"] == "ours"
        program.queue("c1", "theirs too")
        until_known(viewer, count=2)
        assert viewer.active("c1")["sessionId"] == "theirs too"
        assert viewer.resume("c1", "theirs").status_code == 200
        assert run.session_id == "ours"
    assert texts(events(viewer.resume("c1", "theirs").data)) == ["queued", "end"]
    assert [frame["event"] for frame in events(viewer.resume("c1", "ours").data)] == ["token", "end"]


def test_a_session_of_our_own_goes_before_another_programs_of_the_same_id(viewer: Viewer, program: Program) -> None:
    program.queue("c1", "same")
    until_known(viewer)
    with viewer.app.app_context(), viewer.extension.run("c1", "same") as run:
        run.emit("token", {"text": "a"})
        run.flush(5)
        own = viewer.active("c1")
        assert own["cursor"].endswith("-1")
        program.chunk("c1", "same", "later")
        viewer.until(lambda: viewer.store.events(TaskRef("c1", "same", "same"), ORIGIN, 9).events[1:])
        assert viewer.active("c1")["cursor"] == own["cursor"]
        session: Any = viewer.get("/sessions/same").json
        assert session["latestTask"]["id"] == run.task_id


# P9: whole ids


STRANGE = [
    ("c1", "conversation:user123:msg456"),
    ("a", "b:c"),
    ("a:b", "d"),
    ("tenant:1:chat", "run:7"),
    (":", ":"),
    ("::", "a"),
    ("ключ", "é:é"),
    ("two words", "*"),
    ("{x}", "%2e"),
    ("x" * 128, ":" * 128),
]


def test_ids_are_taken_whole_whatever_they_hold(viewer: Viewer, raw: redis.Redis) -> None:
    for number, (conversation, run) in enumerate(STRANGE):
        add(raw, f"{T + number}-0", conversation, run)
    for number, (conversation, run) in enumerate(STRANGE):
        until_known(viewer, conversation)
        body = viewer.active(conversation)
        assert (body["sessionId"], body["cursor"]) == (run, f"{T + number}-0")
        assert viewer.index.sessions(conversation) == [run]


def test_a_conversation_never_sees_anothers_session_whose_name_begins_with_its_own(
    viewer: Viewer, program: Program
) -> None:
    program.queue("a:b", "r1")
    program.queue("a", "b:r1:r2")
    until_known(viewer, "a:b")
    until_known(viewer, "a")
    assert viewer.active("a:b")["sessionId"] == "r1"
    assert viewer.active("a")["sessionId"] == "b:r1:r2"
    for conversation, session in (("a", "b:r1"), ("a:b:r1", "r2"), ("a:b", "r1:r2")):
        assert viewer.resume(conversation, session).status_code == 404
    assert viewer.conversation("a:b:r1", "active-session").status_code == 404


def test_a_name_that_changes_hands_is_never_shown_to_whom_it_was_before(viewer: Viewer, raw: redis.Redis) -> None:
    key = "chat:stream:a:b:c"
    raw.xadd(key, {"conversation_id": "a", "run_id": "b:c"}, id=f"{T}-0")
    until_known(viewer, "a")
    assert viewer.active("a")["sessionId"] == "b:c"
    with raw.pipeline() as pipe:
        pipe.delete(key)
        pipe.xadd(key, {"conversation_id": "a:b", "run_id": "c"}, id=f"{T + 1}-0")
        pipe.execute()
    assert viewer.conversation("a", "active-session").status_code == 404
    assert viewer.active("a:b")["sessionId"] == "c"


def test_a_name_with_two_readings_and_nothing_that_decides_is_shown_to_nobody(
    viewer: Viewer, raw: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    raw.xadd("chat:stream:a:b:c", {"content": "x"}, id=f"{T}-0")
    raw.xadd("chat:stream:a:d", {"content": "x"}, id=f"{T}-0")
    until_known(viewer, "a")
    for _ in range(3):
        assert viewer.active("a")["sessionId"] == "d"
        assert viewer.conversation("a:b", "active-session").status_code == 404
    assert len([each for each in caplog.records if "`whole`" in each.getMessage()]) == 1
    viewer.until(lambda: raw.xadd("chat:stream:a:b:c", {"run_id": "c"}) and viewer.index.sessions("a:b"))
    assert viewer.active("a:b")["sessionId"] == "c"
    assert viewer.index.sessions("a") == ["d"]


@pytest.mark.parametrize(("whole", "place"), [("conversation_id", ("a", "b:c")), ("session_id", ("a:b", "c"))])
def test_the_host_can_say_which_ids_hold_no_separator(
    make_viewer: MakeViewer, raw: redis.Redis, whole: str, place: tuple[str, str]
) -> None:
    raw.xadd("chat:stream:a:b:c", {"content": "x"}, id=f"{T}-0")
    viewer = make_viewer(keys={"stream": "chat:stream:{conversation_id}:{session_id}", "whole": whole})
    assert viewer.active(place[0])["sessionId"] == place[1]


def test_a_key_of_another_type_is_left_alone_counted_and_logged_once(
    viewer: Viewer, raw: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    raw.set(STREAM.format("c1", "reservation"), "locked")
    raw.set(STREAM.format("c2", "reservation"), "locked")
    raw.set("chat:stream:reservation", "locked")
    raw.rpush(STREAM.format("c1", "lock:r1"), "locked")
    add(raw, f"{T}-0")
    viewer.until(lambda: "r1" in viewer.index.sessions("c1"))
    for _ in range(3):
        raw.set(STREAM.format("c1", "reservation"), "locked again")
        viewer.until(lambda: "reservation" in viewer.index.sessions("c1"))
        assert viewer.active("c1")["sessionId"] == "r1"
        assert viewer.conversation("c2", "active-session").status_code == 404
        assert viewer.conversation("c2", "task-status").status_code == 404
        assert viewer.resume("c1", "reservation").status_code == 404
    assert len([each for each in caplog.records if "another type" in each.getMessage()]) == 1
    assert viewer.store.totals().unreadable == 3
    assert raw.get(STREAM.format("c1", "reservation")) == b"locked again"


def test_a_key_that_becomes_a_stream_at_last_is_seen_by_its_only_entry(viewer: Viewer, raw: redis.Redis) -> None:
    for number in range(20):
        conversation = f"c{number}"
        raw.set(STREAM.format(conversation, "r1"), "locked")
        until_known(viewer, conversation)
        assert viewer.conversation(conversation, "active-session").status_code == 404
        raw.delete(STREAM.format(conversation, "r1"))
        add(raw, "*", conversation)
    for number in range(20):
        until_known(viewer, f"c{number}")
        assert viewer.active(f"c{number}")["sessionId"] == "r1"


def test_a_stream_that_nothing_decided_is_seen_once_an_entry_does(viewer: Viewer, raw: redis.Redis) -> None:
    for number in range(20):
        raw.xadd(STREAM.format(f"a{number}", "b:c"), {"content": "x"})
    add(raw, "*", "last")
    until_known(viewer, "last")  # and so the others have been heard of
    for number in range(20):
        assert viewer.index.sessions(f"a{number}") == []
        add(raw, "*", f"a{number}", "b:c")
    for number in range(20):
        until_known(viewer, f"a{number}")
        assert viewer.active(f"a{number}")["sessionId"] == "b:c"


def test_keys_that_come_and_go_are_known_in_the_end_as_they_are(viewer: Viewer, raw: redis.Redis) -> None:
    for turn in range(30):
        for number in range(20):
            key = STREAM.format(f"c{number}", "r1")
            if (turn + number) % 3:
                add(raw, "*", f"c{number}")
            else:
                raw.delete(key)
            if (turn + number) % 7 == 0:
                viewer.conversation(f"c{number}", "active-session")
        time.sleep(0.1)
    there = {number for number in range(20) if raw.exists(STREAM.format(f"c{number}", "r1"))}
    viewer.until(lambda: {number for number in range(20) if viewer.index.sessions(f"c{number}")} == there)
    assert 0 < len(there) < 20


# P11: clients


def test_one_client_for_all_requests(make_viewer: MakeViewer, raw: redis.Redis, program: Program) -> None:
    program.answer("c1", "r1", 2)
    viewer = make_viewer()
    assert viewer.active("c1")["status"] == "completed"
    before = raw.info("stats")["total_connections_received"]
    for _ in range(20):
        assert viewer.active("c1")["status"] == "completed"
    assert raw.info("stats")["total_connections_received"] == before


# P12: a status that is gone before the stream is


def test_a_long_run_whose_status_has_expired_goes_on(viewer: Viewer, raw: redis.Redis) -> None:
    now = int(time.time() * 1000)
    add(raw, f"{now - 700_000}-0", type="start")
    add(raw, f"{now - 100_000}-0", content="still at it")
    until_known(viewer)
    body = viewer.active("c1")
    assert (body["status"], body["startedAt"]) == ("active", now - 700_000)
    assert viewer.conversation("c1", "task-status").json["isActive"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("word", "state", "status"),
    [
        ("completed", "completed", "completed"),
        ("error", "error", "idle"),
        ("cancelled", "cancelled", "idle"),
        ("None", "completed", "completed"),
        ("timeout", "error", "idle"),
    ],
)
def test_an_ended_run_whose_status_has_expired_is_told_by_its_end(
    viewer: Viewer, raw: redis.Redis, word: str, state: str, status: str
) -> None:
    add(raw, f"{T}-0", type="start")
    add(raw, f"{T + 1}-0", type="end", status=word, message="That was it.")
    until_known(viewer)
    assert viewer.active("c1")["status"] == status
    task: Any = viewer.get("/sessions/r1/tasks/r1").json
    failed = state != "completed"
    assert (task["state"], task["finishedAt"]) == (state, T + 1)
    assert task["errorMessage"] == ("That was it." if failed else None)
    assert task["errorType"] == ("timeout" if word == "timeout" else None)


def test_an_end_counts_more_than_a_status_that_lags_behind(viewer: Viewer, raw: redis.Redis) -> None:
    raw.set(STATUS.format("c1", "r1"), "running")
    add(raw, f"{T}-0", type="start")
    until_known(viewer)
    assert viewer.active("c1")["status"] == "active"
    add(raw, f"{T + 1}-0", type="end", status="completed")
    assert viewer.active("c1")["status"] == "completed"


def test_a_run_without_a_status_that_fell_silent_is_lost(viewer: Viewer, raw: redis.Redis) -> None:
    now = int(time.time() * 1000)
    add(raw, f"{now - 125_000}-0", type="start")
    until_known(viewer)
    assert viewer.active("c1")["status"] == "idle"
    assert viewer.get("/sessions/r1/tasks/r1").json["state"] == "lost"  # type: ignore[index]
    found = events(viewer.resume("c1", "r1").data)
    assert texts(found) == ["start", "end"]
    assert found[-1]["data"]["state"] == "lost"
    assert viewer.resume("c1", "r1", found[-1]["id"]).status_code == 204
    assert viewer.resume("c1", "r1", f"{now}-0").status_code == 204
    add(raw, f"{now}-0", content="back")
    assert viewer.active("c1")["status"] == "active"


# P13: one moment


def test_no_answer_is_half_of_one_moment_and_half_of_the_next(viewer: Viewer, program: Program) -> None:
    for number in range(30):
        conversation = f"c{number}"
        program.send("answer", conversation, "r1", 5)
        seen: list[tuple[bool, str]] = []
        viewer.until(lambda conversation=conversation: viewer.index.sessions(conversation))
        while not seen or seen[-1][1] != "completed":
            body = viewer.active(conversation)
            task: Any = viewer.conversation(conversation, "task-status").json
            seen.append((task["isActive"], body["status"]))
            assert body["startedAt"] <= body["lastActivity"]
        program.reply()
        order = [("active", True), ("active", False), ("completed", False)]
        ranks = [order.index((status, active)) for active, status in seen]
        assert ranks == sorted(ranks)


def test_own_and_other_sessions_are_read_in_one_round_trip(
    viewer: Viewer, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    program.queue("c1", "r1")
    program.queue("c1", "r2")
    until_known(viewer, count=2)
    viewer.active("c1")
    trips = []
    node = viewer.store._redis.calls.servers._node
    send, execute = node.send, node.execute
    monkeypatch.setattr(node, "send", lambda commands: trips.append("pipeline") or send(commands))
    monkeypatch.setattr(node, "execute", lambda *command: trips.append(command[0]) or execute(*command))
    viewer.store.snapshot("c1")
    assert [trip for trip in trips if trip == "pipeline"] == ["pipeline"]
    assert [trip for trip in trips if trip not in ("pipeline", "EXISTS")] == []


# P14: entries


def test_entries_are_read_as_they_are(viewer: Viewer, raw: redis.Redis) -> None:
    citations = [{"url": "https://example.org", "n": 1}]
    add(raw, f"{T}-0", type="queued", created_at="2024-01-01T00:00:00")
    add(raw, f"{T}-1", content="Hé ", citations_json="[]", tool_calls_json="None")
    add(raw, f"{T}-2", content="None", citations_json=json.dumps(citations), tool_calls_json="null")
    add(raw, f"{T}-3", content="1.5", usage_json='{"tokens": 7}', note_json="None", flag="true")
    add(raw, f"{T}-4", type="end", status="completed", message="None")
    until_known(viewer)
    found = events(viewer.resume("c1", "r1").data)
    common = {"conversation_id": "c1", "run_id": "r1"}
    assert [(frame["event"], frame["data"]) for frame in found] == [
        ("queued", {"type": "queued", **common, "created_at": "2024-01-01T00:00:00"}),
        ("chunk", {"type": "chunk", **common, "content": "Hé ", "citations": [], "tool_calls": []}),
        ("chunk", {"type": "chunk", **common, "content": None, "citations": citations, "tool_calls": []}),
        ("chunk", {"type": "chunk", **common, "content": "1.5", "usage": {"tokens": 7}, "note": None, "flag": "true"}),
        ("end", {"state": "completed", "errorType": None, "errorMessage": None, "taskId": "r1"}),
    ]
    assert [frame["id"] for frame in found] == [f"{T}-{number}" for number in range(5)]


def test_an_entry_that_cannot_be_read_is_passed_on_as_what_it_is(
    viewer: Viewer, raw: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    broken = ["{", "NaN", "[1e999]", "[" * 5000, '"\\ud800"']
    for number, text in enumerate(broken):
        add(raw, f"{T}-{number}", type="note", citations_json=text)
    add(raw, f"{T}-5", content=b"\xff\xfe", type="start")
    add(raw, f"{T}-6", content="x", type="a b\nevent: end")
    raw.xadd(STREAM.format("c1", "r1"), {"content": "no type"}, id=f"{T}-7")
    add(raw, f"{T}-8", type="end", status="completed")
    until_known(viewer)
    found = events(viewer.resume("c1", "r1").data)
    assert [frame["data"]["citations"] for frame in found[: len(broken)]] == broken
    assert found[5]["data"]["content"] == "\\xff\\xfe"
    assert (found[6]["event"], found[6]["data"]["type"]) == ("message", "a b\nevent: end")
    assert (found[7]["event"], found[7]["data"]) == ("message", {"content": "no type"})
    assert found[8]["event"] == "end"
    viewer.resume("c1", "r1").close()
    said = [each for each in caplog.records if "passed on" in each.getMessage()]
    assert len(said) == 3
    assert viewer.store.totals().unreadable == len(broken) + 2


@pytest.mark.parametrize("type", ["gap", "status", "attempt", "error", "open"])
def test_no_entry_passes_for_a_frame_of_ours(viewer: Viewer, raw: redis.Redis, type: str) -> None:
    add(raw, f"{T}-0", type=type, requested="1-1")
    add(raw, f"{T}-1", type="chunk", type_json='"end"', run_id_json='"r2"', content="x", content_json='"y"')
    add(raw, f"{T}-2", type="end", status="completed")
    until_known(viewer)
    found = events(viewer.resume("c1", "r1").data)
    assert [frame["event"] for frame in found] == [f"existing.{type}", "chunk", "end"]
    assert found[1]["data"]["type"] == "chunk"
    assert (found[1]["data"]["run_id"], found[1]["data"]["content"]) == ("r1", "x")
    assert found[1]["data"]["content_json"] == '"y"'


# P15, P16: resuming


def test_without_a_cursor_a_reload_gets_the_text_from_its_begin(viewer: Viewer, program: Program) -> None:
    program.answer("c1", "r1", 20)
    until_known(viewer)
    found = events(viewer.resume("c1", "r1").data)
    assert texts(found) == ["queued", "start", *(f"word{number} " for number in range(20)), "end"]


def test_a_cursor_is_exclusive_wherever_it_is(viewer: Viewer, program: Program) -> None:
    program.answer("c1", "r1", 20)
    until_known(viewer)
    everything = events(viewer.resume("c1", "r1").data)
    for number, frame in enumerate(everything[:-1]):
        rest = events(viewer.resume("c1", "r1", frame["id"]).data)
        assert [each["id"] for each in rest] == [each["id"] for each in everything[number + 1 :]]
    assert viewer.resume("c1", "r1", everything[-1]["id"]).status_code == 204
    assert viewer.resume("c1", "r1", "x").status_code == 422
    ms = int(everything[-1]["id"].partition("-")[0])
    past = events(viewer.resume("c1", "r1", f"{ms + 5}-0").data)
    assert [frame["event"] for frame in past] == ["gap", *(frame["event"] for frame in everything)]


def test_a_follower_hears_of_each_entry_within_a_moment(viewer: Viewer, program: Program) -> None:
    program.start("c1", "r1")
    until_known(viewer)
    following = [Following(viewer.resume("c1", "r1")) for _ in range(3)]
    for each in following:
        each.wait_for("event: start")
    late = []
    for number in range(20):
        program.chunk("c1", "r1", f"word{number} ")
        at = program.clock()
        for each in following:
            each.wait_for(f"word{number} ")
        late.append(time.time() - at)
    program.end("c1", "r1")
    for each in following:
        assert texts(each.finish()) == ["start", *(f"word{number} " for number in range(20)), "end"]
    assert sorted(late)[len(late) // 2] < 0.5


def test_followers_of_a_session_share_what_is_read(viewer: Viewer, raw: redis.Redis, program: Program) -> None:
    program.start("c1", "r1")
    until_known(viewer)
    following = [Following(viewer.resume("c1", "r1")) for _ in range(10)]
    for each in following:
        each.wait_for("event: start")

    def write() -> None:
        for number in range(10):
            program.chunk("c1", "r1", f"word{number} ")
            for each in following:
                each.wait_for(f"word{number} ")

    reads = [words for words in monitored(raw, write) if words[0] == "XRANGE"]
    program.end("c1", "r1")
    for each in following:
        each.finish()
    assert len(reads) < 30


def test_the_stream_of_a_conversation_is_that_of_what_runs(viewer: Viewer, program: Program) -> None:
    program.answer("c1", "r1", 2)
    until_known(viewer)
    assert viewer.conversation("c1", "stream").status_code == 204
    program.start("c1", "r2")
    until_known(viewer, count=2)
    following = Following(viewer.conversation("c1", "stream", buffered=False))
    following.wait_for("event: start")
    program.chunk("c1", "r2", "x")
    program.end("c1", "r2")
    found = following.finish()
    assert texts(found) == ["start", "x", "end"]
    assert {frame["data"]["run_id"] for frame in found[:-1]} == {"r2"}
    assert viewer.conversation("c1", f"stream?cursor={found[-1]['id']}").status_code == 204


def test_a_cursor_leads_back_to_the_stream_that_has_that_entry(viewer: Viewer, raw: redis.Redis) -> None:
    for number in range(4):
        add(raw, f"{T + 10 * number}-0", "c1", "r1", content=f"one{number}")
        add(raw, f"{T + 10 * number + 5}-0", "c1", "r2", content=f"two{number}")
    add(raw, f"{T + 40}-0", "c1", "r1", type="end", status="completed")
    raw.set(STATUS.format("c1", "r2"), "running")
    until_known(viewer, count=2)
    rest = events(viewer.conversation("c1", f"stream?cursor={T + 20}-0").data)
    assert texts(rest) == ["one3", "end"]
    add(raw, f"{T + 50}-0", "c1", "r2", type="end", status="completed")
    assert texts(events(viewer.conversation("c1", f"stream?cursor={T + 25}-0").data)) == ["two3", "end"]


def test_a_cursor_whose_entry_is_trimmed_leads_to_a_session_of_that_time(viewer: Viewer, raw: redis.Redis) -> None:
    for number in range(4):
        add(raw, f"{T + 10 * number}-0", "c1", "r1", type="start" if number == 0 else "chunk", content=f"one{number}")
    add(raw, f"{T + 35}-0", "c1", "r2", type="start")
    raw.set(STATUS.format("c1", "r2"), "running")
    until_known(viewer, count=2)
    assert viewer.active("c1")["sessionId"] == "r2"
    add(raw, f"{T + 40}-0", "c1", "r1", type="end", status="completed")
    raw.xtrim(STREAM.format("c1", "r1"), maxlen=2, approximate=False)
    found = events(viewer.conversation("c1", f"stream?cursor={T + 10}-0").data)
    assert texts(found) == ["gap", "one3", "end"]


def test_pages_of_json_wait_for_what_comes(viewer: Viewer, program: Program) -> None:
    first = program.start("c1", "r1")
    until_known(viewer)
    path = "/sessions/r1/tasks/r1/events"
    page: Any = viewer.get(f"{path}?wait=0").json
    assert (page["cursor"], page["done"], len(page["events"])) == (first, False, 1)
    program.send("end", "c1", "r1")
    page = viewer.get(f"{path}?cursor={first}&wait=5").json
    assert (page["done"], [event["type"] for event in page["events"]]) == (True, ["end"])
    program.reply()
    assert viewer.get(f"{path}?cursor={page['cursor']}").json == {"events": [], "cursor": page["cursor"], "done": True}


@pytest.mark.parametrize("first", ["status", "end"])
def test_an_end_is_told_with_its_message_whichever_key_is_written_first(
    viewer: Viewer, raw: redis.Redis, program: Program, first: str
) -> None:
    program.start("c1", "r1")
    until_known(viewer)
    following = Following(viewer.resume("c1", "r1"))
    following.wait_for("event: start")
    if first == "status":
        program.set_status("c1", "r1", "error")
        viewer.until(lambda: viewer.active("c1")["status"] == "idle")
        program.emit("c1", "r1", "end", {"status": "error", "message": "No tokens left."})
    else:
        program.emit("c1", "r1", "end", {"status": "error", "message": "No tokens left."})
        program.set_status("c1", "r1", "error")
    end = following.finish()[-1]
    assert end["data"]["errorMessage"] == "No tokens left."
    assert viewer.resume("c1", "r1", end["id"]).status_code == 204


def test_a_run_that_only_its_status_ends_is_over_for_its_followers_too(viewer: Viewer, program: Program) -> None:
    cursor = program.start("c1", "r1")
    until_known(viewer)
    following = Following(viewer.resume("c1", "r1"))
    following.wait_for("event: start")
    program.set_status("c1", "r1", "cancelled")
    found = following.finish(5)
    assert (found[-1]["id"], found[-1]["data"]["state"]) == (cursor, "cancelled")
    assert viewer.resume("c1", "r1", cursor).status_code == 204


def test_a_session_that_goes_on_after_an_end_is_followed_further(viewer: Viewer, program: Program) -> None:
    program.answer("c1", "r1", 1)
    program.start("c1", "r1")
    until_known(viewer)
    following = Following(viewer.resume("c1", "r1"))
    following.wait_for("word0")
    program.chunk("c1", "r1", "more")
    program.end("c1", "r1")
    assert texts(following.finish()) == ["queued", "start", "word0 ", "start", "more", "end"]


# P17: stopping


def test_a_stop_is_a_request_that_the_program_sees(viewer: Viewer, program: Program) -> None:
    program.send("answer", "c1", "r1", 1000, 0.01)
    until_known(viewer)
    viewer.until(lambda: viewer.active("c1")["status"] == "active")
    following = Following(viewer.resume("c1", "r1"))
    response = viewer.conversation("c1", "stop", "POST")
    assert response.status_code == 202
    body: Any = response.json
    assert body.keys() == {"sessionId", "taskId", "state", "cancelRequestedAt", "conversationId"}
    assert (body["sessionId"], body["taskId"], body["conversationId"]) == ("r1", "r1", "c1")
    program.reply()
    end = following.finish()[-1]
    assert (end["data"]["state"], end["data"]["errorMessage"]) == ("cancelled", "Stopped by the user.")
    gone = viewer.conversation("c1", "stop", "POST")
    assert gone.status_code == 404
    assert gone.json == {"error": "No active session to stop", "conversationId": "c1"}


def test_a_stop_again_is_the_same_answer_from_any_process(
    viewer: Viewer, make_viewer: MakeViewer, raw: redis.Redis, program: Program
) -> None:
    program.start("c1", "r1")
    until_known(viewer)
    first = viewer.conversation("c1", "stop?session_id=r1", "POST")
    assert first.status_code == 202
    for _ in range(3):
        assert raw.pexpire(CANCEL.format("c1", "r1"), 299_700)  # as if the answer had been long under way
        again = viewer.conversation("c1", "stop", "POST")
        assert (again.status_code, again.json) == (202, first.json)
    other = make_viewer()
    other.active("c1")
    elsewhere: Any = other.conversation("c1", "stop", "POST")
    assert elsewhere.status_code == 202
    assert abs(elsewhere.json["cancelRequestedAt"] - first.json["cancelRequestedAt"]) < 500  # type: ignore[index]
    assert raw.get(CANCEL.format("c1", "r1")) == b"true"


def test_a_stop_that_names_another_session_is_409(viewer: Viewer, raw: redis.Redis, program: Program) -> None:
    program.answer("c1", "r1", 1)
    program.start("c1", "r2")
    until_known(viewer, count=2)
    assert viewer.conversation("c1", "stop?session_id=r1", "POST").status_code == 409
    assert viewer.conversation("c2", "stop", "POST").status_code == 404
    assert raw.keys("cancel:*") == []


def test_a_stop_where_there_is_no_cancel_key_is_404(make_viewer: MakeViewer, program: Program) -> None:
    program.start("c1", "r1")
    viewer = make_viewer(keys={"stream": "chat:stream:{conversation_id}:{session_id}"})
    assert viewer.active("c1")["status"] == "active"
    assert viewer.conversation("c1", "stop", "POST").status_code == 404


def test_keys_that_the_program_deletes_end_the_stream_and_stay_deleted(
    viewer: Viewer, raw: redis.Redis, program: Program
) -> None:
    program.start("c1", "r1")
    until_known(viewer)
    following = Following(viewer.resume("c1", "r1"))
    following.wait_for("event: start")
    raw.delete(STREAM.format("c1", "r1"), STATUS.format("c1", "r1"))
    assert following.finish(5)[-1]["data"]["errorType"] == "SessionDeleted"
    assert viewer.conversation("c1", "active-session").status_code == 404
    viewer.until(lambda: len(viewer.index) == 0)
    assert raw.keys("*:c1:r1") == []


# P18: real server-sent events that the old page can read, too


def test_the_frames_are_server_sent_events_that_the_old_page_can_read_too(viewer: Viewer, program: Program) -> None:
    program.start("c1", "r1")
    until_known(viewer)
    following = Following(viewer.resume("c1", "r1"))
    following.wait_for("event: start")
    program.chunk("c1", "r1", "Hello ", citations=None)
    program.chunk("c1", "r1", "World", tool_calls=None)
    program.end("c1", "r1", "completed", "All done.")
    following.finish()
    assert following.response.mimetype == "text/event-stream"
    assert following.text.startswith(b"retry: ")
    everything = frames(following.text)
    for frame in everything:
        assert ("id" in frame) == (frame["event"] != "status")
        assert "message" not in frame["data"]
        assert all(frame["data"][name] is not None for name in ("citations", "tool_calls") if name in frame["data"])
    assert everything[-1]["data"]["note"] == "All done."
    # As the page did: every JSON object that comes along, whatever stands between them.
    decoder, text, objects = json.JSONDecoder(), following.text.decode(), []
    while (at := text.find("{")) != -1:
        value, length = decoder.raw_decode(text[at:])
        objects.append(value)
        text = text[at + length :]
    assert "".join(each["content"] for each in objects if each.get("content")) == "Hello World"


# P19: what was trimmed


def test_entries_that_were_trimmed_past_a_cursor_show_as_a_gap(viewer: Viewer, raw: redis.Redis) -> None:
    for number in range(6):
        add(raw, f"{T + number}-0", content=f"word{number}")
    add(raw, f"{T + 6}-0", type="end", status="completed")
    until_known(viewer)
    assert texts(events(viewer.resume("c1", "r1", f"{T + 1}-0").data)) == ["word2", "word3", "word4", "word5", "end"]
    raw.xtrim(STREAM.format("c1", "r1"), maxlen=3, approximate=False)
    found = events(viewer.resume("c1", "r1", f"{T + 1}-0").data)
    assert texts(found) == ["gap", "word4", "word5", "end"]
    assert found[0]["data"] == {"requested": f"{T + 1}-0", "firstAvailable": f"{T + 4}-0"}
    assert texts(events(viewer.resume("c1", "r1", f"{T + 4}-0").data)) == ["word5", "end"]
    begun = events(viewer.resume("c1", "r1").data)
    assert texts(begun) == ["gap", "word4", "word5", "end"]
    assert begun[0]["data"] == {"requested": "0-0", "firstAvailable": f"{T + 4}-0"}


def test_holes_between_ids_are_no_gap(viewer: Viewer, raw: redis.Redis) -> None:
    add(raw, f"{T}-7", type="start")
    for number in (900, 5_000, 60_000):
        add(raw, f"{T + number}-{number}", content="x")
    add(raw, f"{T + 60_001}-0", type="end", status="completed")
    until_known(viewer)
    assert "gap" not in texts(events(viewer.resume("c1", "r1").data))
    assert "gap" not in texts(events(viewer.resume("c1", "r1", f"{T}-7").data))


def test_a_follower_that_keeps_up_with_a_bounded_stream_misses_nothing(viewer: Viewer, program: Program) -> None:
    program.start("c1", "r1")
    until_known(viewer)
    following = Following(viewer.resume("c1", "r1"))
    following.wait_for("event: start")
    for number in range(30):
        program.chunk("c1", "r1", f"word{number} ", maxlen=3)
        following.wait_for(f"word{number} ")
    program.end("c1", "r1")
    assert texts(following.finish()) == ["start", *(f"word{number} " for number in range(30)), "end"]


# Who may see them


def test_a_rule_decides_who_sees_them(make_viewer: MakeViewer, program: Program) -> None:
    program.answer("mine", "r1", 1)
    program.answer("other", "r2", 1)
    viewer = make_viewer(can_access=lambda namespace, conversation: (namespace, conversation) == ("u1", "mine"))
    assert viewer.active("mine")["sessionId"] == "r1"
    assert viewer.get("/sessions/r1").status_code == 200
    for route in ("active-session", "task-status", "stream", "resume/r2"):
        assert viewer.conversation("other", route).status_code == 403
    assert viewer.conversation("other", "stop", "POST").status_code == 403
    assert viewer.get("/sessions/r2").status_code == 404
    assert viewer.resume("mine", "r2").status_code == 404


def test_the_log_holds_no_key(viewer: Viewer, raw: redis.Redis, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "flask_sessionstatus"):
        raw.set(STREAM.format("secret-conversation", "secret-run"), "x")
        add(raw, f"{T}-0", "other-secret", "secret:run", citations_json="{")
        until_known(viewer, "other-secret")
        viewer.conversation("secret-conversation", "active-session")
        viewer.resume("other-secret", "secret:run").close()
    assert "secret" not in caplog.text


# Ids that are unique in their conversation alone


def test_run_ids_that_repeat_in_other_conversations_leak_nothing(make_viewer: MakeViewer, raw: redis.Redis) -> None:
    viewer = make_viewer(can_access=lambda namespace, conversation: conversation == "mine")
    viewer.begin("mine")
    for number, conversation in enumerate(("mine", "other")):
        add(raw, f"{T + number}-0", conversation, "1", type="start", secret=conversation)
        add(raw, f"{T + 10 + number}-0", conversation, "1", content=conversation)
        raw.set(STATUS.format(conversation, "1"), "running")
        until_known(viewer, conversation)
    add(raw, f"{T + 20}-0", "mine", "1", type="end")
    add(raw, f"{T + 21}-0", "other", "1", type="end")
    assert viewer.active("mine")["cursor"] == f"{T + 20}-0"
    for path in (f"stream?cursor={T}-0", f"resume/1?cursor={T}-0", "resume/1", f"stream?cursor={T + 1}-0"):
        assert b"other" not in viewer.conversation("mine", path).data
    assert texts(events(viewer.conversation("mine", f"stream?cursor={T}-0").data)) == ["mine", "end"]
    for path in ("", "/tasks", "/tasks/1", "/tasks/1/events", "/messages", "/stats"):
        assert viewer.get(f"/sessions/1{path}").status_code == 404
    assert viewer.post("/sessions/1/tasks/1/cancel").status_code == 404
    raw.delete(STREAM.format("other", "1"))
    viewer.until(lambda: viewer.get("/sessions/1").status_code == 200)
    assert viewer.get("/sessions/1/tasks/1").json["conversationId"] == "mine"  # type: ignore[index]


def test_what_takes_the_place_of_a_session_between_the_check_and_the_answer_is_not_shown(
    make_viewer: MakeViewer, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = make_viewer(can_access=lambda namespace, conversation: conversation == "mine")
    viewer.begin("mine")
    add(raw, f"{T}-0", "mine", "1", type="start")
    until_known(viewer, "mine")
    store = viewer.store
    session = store.session

    def replaced(session_id: str) -> Any:
        found = session(session_id)
        raw.delete(STREAM.format("mine", "1"))
        add(raw, f"{T}-0", "other", "1", type="start")
        viewer.until(lambda: store._index.conversations("1") == ["other"])
        return found

    monkeypatch.setattr(store, "session", replaced)
    for path in ("/tasks/1", "/tasks/1/events"):
        add(raw, "*", "mine", "1", type="start")
        raw.delete(STREAM.format("other", "1"))
        viewer.until(lambda: store._index.conversations("1") == ["mine"])
        assert viewer.get(f"/sessions/1{path}").status_code == 404
    add(raw, "*", "mine", "1", type="start")
    raw.delete(STREAM.format("other", "1"))
    viewer.until(lambda: store._index.conversations("1") == ["mine"])
    assert viewer.get("/sessions/1/tasks").json == []
