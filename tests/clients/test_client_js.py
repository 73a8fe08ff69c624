"""client.js in node against the real host behind a relay: every outage, every answer, every callback."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from clients.conftest import RETRY_MS
from clients.host import PREFIX, Generation, Host
from clients.node import Script
from clients.relay import Relay
from harness import a_session, a_task, begin

from flask_sessionstatus.errors import StoreUnavailable

Follow = Callable[..., Script]


def tokens(script: Script) -> list[str]:
    return [event["data"]["text"] for event in script.of("event") if event["type"] == "token"]


def states(script: Script) -> list[str]:
    return [each["state"] for each in script.of("connection")]


def has(script: Script, count: int) -> None:
    script.wait(lambda: len(script.of("event")) >= count, f"{count} events")


def is_waiting(script: Script, times: int = 1) -> None:
    script.wait(lambda: states(script).count("waiting") >= times, f"waiting {times} times")


def completes(script: Script, generation: Generation) -> None:
    """Let the generation go; everything was told once, the end last, and nothing keeps node alive."""
    generation.go.set()
    script.finish()
    assert tokens(script) == generation.tokens
    assert [end["state"] for end in script.of("end")] == ["completed"]
    assert script.lines[-1]["on"] == "done"
    assert states(script)[-1] == "closed"


# Answers


@pytest.mark.parametrize("hold", [None, 5], ids=["finished", "running"])
def test_it_finds_the_session_and_tells_everything(host: Host, follow: Follow, hold: int | None) -> None:
    generation = host.generate("c ü:?", session_id="s *[%]#", hold=hold)
    following = follow("c ü:?")
    has(following, hold or 1)
    completes(following, generation)
    assert following.of("session")[0]["session"]["sessionId"] == "s *[%]#"
    assert states(following) == ["connecting", "open", "closed"]


def test_a_conversation_without_a_session_is_idle(host: Host, follow: Follow) -> None:
    following = follow("nobody")
    assert [line["on"] for line in following.finish()] == ["connection", "idle", "connection", "done"]
    assert len(host.requests) == 1


@pytest.mark.parametrize("options", [{}, {"sessionId": "s1"}], ids=["found", "named"])
def test_a_session_in_which_nothing_was_started_is_idle(host: Host, follow: Follow, options: dict[str, str]) -> None:
    with host.app.app_context():
        host.extension.sessions.create("c1", "s1", namespace_id="u1")
    following = follow(**options)
    lines = following.finish()
    assert [line["on"] for line in lines if line["on"] not in ("connection", "session")] == ["idle", "done"]
    assert lines[-1] == {"on": "done", "state": None, "cursor": None, "session": "s1"}
    assert [stream.status for stream in host.streams()] == [204]


def test_204_ends_it_at_once(host: Host, follow: Follow) -> None:
    host.generate()
    host.join()
    (end,) = [line["cursor"] for line in follow().finish() if line["on"] == "done"]
    following = follow(sessionId="s1", cursor=end)
    assert following.finish()[-1] == {"on": "done", "state": None, "cursor": end, "session": "s1"}
    assert host.streams()[-1].status == 204
    assert following.of("event") == following.of("end") == []


@pytest.mark.parametrize(
    ("when", "status"),
    [
        ("finding", 401),
        ("finding", 403),
        ("following", 401),
        ("following", 403),
        ("following", 404),
        ("following", 422),
    ],
)
def test_a_refusal_is_final(host: Host, relay: Relay, follow: Follow, when: str, status: int) -> None:
    generation = host.generate(hold=3)
    options: dict[str, Any] = {}
    if when == "following":
        options["sessionId"] = "unknown" if status == 404 else "s1"
    if status == 422:
        options = {"sessionId": "s1", "cursor": "no cursor"}
    host.user = None if status == 401 else "u1"
    host.allowed = status != 403
    following = follow(**options)
    following.finish()
    (error,) = following.of("error")
    assert (error["name"], error["status"]) == ("FollowError", status)
    assert following.lines[-1] == {"on": "rejected", "status": status}
    assert len(host.requests) == 1
    host.user, host.allowed = "u1", True
    generation.go.set()


def test_a_refusal_while_coming_back_is_final(host: Host, relay: Relay, follow: Follow) -> None:
    generation = host.generate(hold=3)
    following = follow()
    has(following, 3)
    host.user = None
    relay.cut()
    following.finish()
    assert following.lines[-1] == {"on": "rejected", "status": 401}
    generation.go.set()


def test_503_is_asked_again_no_sooner_than_it_says(host: Host, follow: Follow, monkeypatch: pytest.MonkeyPatch) -> None:
    generation = host.generate(hold=3)
    store = host.app.extensions["sessionstatus"].store
    snapshot = store.snapshot

    def away(conversation_id: str) -> Any:
        raise StoreUnavailable("Away.")

    monkeypatch.setattr(store, "snapshot", away)
    began = time.monotonic()
    following = follow()
    is_waiting(following)
    asked = following.of("connection")[-1]["retryIn"]
    assert asked >= 1000
    monkeypatch.setattr(store, "snapshot", snapshot)
    has(following, 3)
    assert time.monotonic() - began >= 1
    completes(following, generation)
    assert host.requests[0].status == 503


def test_a_stream_that_is_shed_is_asked_for_again_later_each_time(
    make_host: Callable[..., Host], host: Host, relay: Relay, follow: Follow
) -> None:
    generation = host.generate(hold=3)
    hub = host.app.extensions["sessionstatus"].engine.hub
    places, hub.max_followers = hub.max_followers, 0
    following = follow()
    is_waiting(following, 5)
    waits = [each["retryIn"] for each in following.of("connection") if each["state"] == "waiting"]
    assert "open" not in states(following)
    for number, wait in enumerate(waits):
        assert RETRY_MS * 2**number <= wait <= RETRY_MS * 2**number * 1.5 + 1
    hub.max_followers = places
    completes(following, generation)
    assert {each.status for each in host.streams()} == {200}


# Outages


def test_a_cut_is_survived_from_the_last_event(host: Host, relay: Relay, follow: Follow) -> None:
    generation = host.generate(hold=5)
    following = follow()
    has(following, 5)
    relay.cut()
    is_waiting(following)
    completes(following, generation)
    assert host.streams()[-1].cursor == following.of("event")[4]["cursor"]


def test_a_server_that_is_restarted(
    make_host: Callable[..., Host], redis_url: Callable[[str], str], follow: Follow, relay: Relay
) -> None:
    shared = {"STORAGE_URI": redis_url("newest"), "KEY_PREFIX": f"clients-{time.monotonic_ns()}:"}
    before, after = make_host(**shared), make_host(**shared)
    relay.target = before.port
    generation = after.generate(hold=5)
    following = follow()
    has(following, 5)
    before.stop_serving()
    is_waiting(following, 3)
    relay.target = after.port
    completes(following, generation)


def test_silence_is_a_loss(host: Host, relay: Relay, follow: Follow) -> None:
    generation = host.generate(hold=5)
    following = follow(silence=400)
    has(following, 5)
    relay.stall()
    is_waiting(following)
    relay.flow()
    completes(following, generation)


def test_online_is_taken_up_at_once(host: Host, relay: Relay, follow: Follow) -> None:
    generation = host.generate(hold=5)
    following = follow()
    has(following, 5)
    relay.refusing = True
    relay.cut()
    is_waiting(following, 8)
    following.send("online")
    relay.refusing = False
    began = time.monotonic()
    completes(following, generation)
    assert time.monotonic() - began < RETRY_MS * 2**7 / 1000


def test_online_gives_up_what_was_open_before(host: Host, relay: Relay, follow: Follow) -> None:
    generation = host.generate(hold=5)
    following = follow()
    has(following, 5)
    relay.stall()
    accepted = relay.accepted
    following.send("online")
    following.wait(lambda: relay.accepted > accepted, "a new connection")
    relay.flow()
    completes(following, generation)
    assert "waiting" not in states(following)


def test_an_answer_that_breaks_off_is_asked_for_again(host: Host, relay: Relay, follow: Follow) -> None:
    generation = host.generate(hold=5)
    relay.cut_often(1, 2, 340, 360)
    following = follow()
    has(following, 5)
    assert relay.cuts == 2
    completes(following, generation)


# What is missing, and what comes again


def test_events_that_are_gone_are_a_gap_which_is_told_once(make_host: Callable[..., Host], follow: Follow) -> None:
    host = make_host(MAX_EVENTS=10)
    relay = Relay(host.port)
    try:
        generation = host.generate(count=30, hold=25)
        following = follow(baseUrl=f"{relay.url}{PREFIX}")
        has(following, 1)
        generation.go.set()
        following.finish()
    finally:
        relay.close()
    gap = following.of("gap")[0]
    assert (gap["requested"], gap["startsOver"]) == ("0-0", False)
    assert following.lines.index(gap) < following.lines.index(following.of("event")[0])
    assert following.of("event")[0]["cursor"] == gap["firstAvailable"]
    assert len(set(tokens(following))) == len(tokens(following)) < 30


@pytest.mark.parametrize("epoch", ["same", "other"])
def test_a_cursor_past_the_end_starts_over(host: Host, follow: Follow, epoch: str) -> None:
    generation = host.generate()
    host.join()
    task = generation.run
    assert task is not None
    end = follow().finish()[-1]["cursor"]
    number = end.partition("-")[0] if epoch == "same" else "99"
    following = follow(sessionId="s1", cursor=f"{number}-999")
    completes(following, generation)
    (gap,) = following.of("gap")
    assert (gap["requested"], gap["startsOver"]) == (f"{number}-999", True)
    assert following.lines.index(gap) < following.lines.index(following.of("event")[0])


def test_a_worker_that_is_lost_during_a_break_is_told(
    make_host: Callable[..., Host], redis_url: Callable[[str], str], relay: Relay, follow: Follow
) -> None:
    shared = {"STORAGE_URI": redis_url("newest"), "KEY_PREFIX": f"clients-{time.monotonic_ns()}:"}
    before, after = make_host(**shared, LEASE=1, HEARTBEAT=0.3), make_host(**shared, LEASE=1, HEARTBEAT=0.3)
    relay.target = after.port
    generation = before.generate(hold=5)
    following = follow()
    has(following, 5)
    relay.refusing = True
    relay.cut()
    before.app.extensions["sessionstatus"].engine.beats.close()
    store = after.app.extensions["sessionstatus"].store
    following.wait(lambda: store.tasks("s1", 1)[0].state.value == "lost", "it is lost")
    relay.refusing = False
    following.finish()
    assert tokens(following) == generation.tokens[:5]
    assert [end["state"] for end in following.of("end")] == ["lost"]
    assert 204 in [each.status for each in after.streams()]
    generation.go.set()


@pytest.mark.parametrize("listening", [True, False])
def test_an_attempt_is_told_where_it_begins(host: Host, relay: Relay, follow: Follow, listening: bool) -> None:
    store = host.app.extensions["sessionstatus"].store
    first = begin(store, a_session("s1", "c1", "u1"), a_task("t1"))
    first.append(["a", "b"])
    following = follow(attempts=listening)
    has(following, 2)
    second = first.retry()
    relay.cut()
    second.append(["c"])
    second.end()
    following.finish()
    told = [line for line in following.lines if line["on"] in ("event", "attempt")]
    assert [line.get("type", line["on"]) for line in told] == ["token", "token", "attempt", "token"]
    assert told[2]["on"] == ("attempt" if listening else "event")
    assert following.of("gap") == []


# Ending


def test_stop_stops_the_work(host: Host, follow: Follow) -> None:
    host.generate(hold=3)
    following = follow()
    has(following, 3)
    following.send("stop")
    following.finish()
    assert following.of("stopped") == [{"on": "stopped", "stopped": True}]
    assert [end["state"] for end in following.of("end")] == ["cancelled"]


def test_stop_is_asked_until_it_arrives_and_disturbs_nothing(host: Host, relay: Relay, follow: Follow) -> None:
    host.generate(hold=3)
    following = follow()
    has(following, 3)
    relay.refusing = True
    relay.cut()
    following.send("stop")
    is_waiting(following, 3)
    relay.refusing = False
    following.finish()
    assert following.of("stopped") == [{"on": "stopped", "stopped": True}]
    assert [end["state"] for end in following.of("end")] == ["cancelled"]


@pytest.mark.parametrize("command", ["close", "abort"])
@pytest.mark.parametrize("when", ["open", "waiting"])
def test_closing_ends_the_following_and_not_the_work(
    host: Host, relay: Relay, follow: Follow, command: str, when: str
) -> None:
    generation = host.generate(hold=3)
    following = follow()
    has(following, 3)
    if when == "waiting":
        relay.refusing = True
        relay.cut()
        is_waiting(following, 6)
    following.send(command)
    lines = following.finish()
    assert lines[-1]["on"] == "done"
    assert lines[-1]["state"] is None
    assert following.of("end") == following.of("error") == []
    assert generation.run is not None
    assert not generation.run.cancelled
    generation.go.set()


def test_a_signal_that_was_aborted_before_asks_nothing(host: Host, follow: Follow) -> None:
    assert [line["on"] for line in follow(aborted=True).finish()] == ["connection", "done"]
    assert host.requests == []


def test_a_callbacks_own_error_loses_nothing(host: Host, relay: Relay, follow: Follow) -> None:
    generation = host.generate()
    following = follow(throwing=True)
    following.finish()
    assert tokens(following) == generation.tokens
    assert len(following.of("uncaught")) == len(generation.tokens)
    assert [end["state"] for end in following.of("end")] == ["completed"]


def test_a_failed_task_tells_its_error(host: Host, follow: Follow) -> None:
    host.generate(fails=True)
    following = follow()
    following.finish()
    (end,) = following.of("end")
    assert (end["state"], end["errorType"], end["errorMessage"]) == ("error", "RuntimeError", "The model is gone.")


def test_progress_comes_as_status(host: Host, follow: Follow) -> None:
    generation = host.generate(hold=3)
    assert generation.run is not None
    generation.run.progress(1, 4, "reading")
    following = follow()
    following.wait(lambda: any(each["status"]["total"] == 4 for each in following.of("status")), "its progress")
    completes(following, generation)


def test_a_stream_for_the_ai_sdk_is_told_as_messages(host: Host, follow: Follow) -> None:
    generation = host.generate(wire="ai-sdk")
    following = follow()
    following.finish()
    told = [event["data"] for event in following.of("event")]
    assert {event["type"] for event in following.of("event")} == {"message"}
    assert "".join(part["delta"] for part in told if part["type"] == "text-delta") == generation.text
    assert following.lines[-1]["state"] is None


def test_ids_are_encoded(host: Host, follow: Follow) -> None:
    generation = host.generate("a?b#c%41&+ ü", session_id="s?#%41&+ ü")
    completes(follow("a?b#c%41&+ ü"), generation)
    assert host.streams()[-1].path == f"{PREFIX}/conversations/a?b#c%41&+ ü/resume/s?#%41&+ ü"
