"""A socket's life under each server: what goes in and out, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from processes.client import wait_until
from processes.gunicorns import Server
from sockets.peers import SERVERS, Peer, cursors_of, make_session
from websockets.exceptions import InvalidStatus

from flask_sessionstatus.models import Cursor

MAXIMUM = 100_000  # as the servers of this module are told


def stats(server: Server, session_id: str) -> Any:
    return server.client.get(f"/api/v1/sessions/{session_id}/stats").json


def start(server: Server, session: dict[str, Any], upto: int, pause: float = 0) -> str:
    path = f"/start/{session['conversationId']}/{session['id']}"
    task_id: str = server.client.post(path, upto=upto, pause=pause).json["taskId"]
    return task_id


def end_of(task_id: str) -> Callable[[dict[str, Any]], bool]:
    return lambda frame: frame["type"] == "end" and frame["data"]["taskId"] == task_id


# In


def test_json_and_chunks_are_heard_and_answered_each_in_its_turn(each_server: Server) -> None:
    session = make_session(each_server)
    with Peer(session["websocketUrl"]) as peer:
        for value in (0, "naïve ключ \u2028", [1, None, {"a": {}}], False):
            assert peer.ask(value) == value
        assert peer.ask(b"?ab") == 3
        said = peer.ask({})
        assert said["session"] == session["id"]
        peer.say(None)
        peer.say(b"no answer is wanted")
        for number in range(50):
            peer.say(number)
        assert [peer.until_type("reply")["data"] for _ in range(50)] == list(range(50))
    assert all(frame["cursor"] is None for frame in peer.frames)
    assert peer.of("error") == []


def test_messages_in_parts_are_put_together(each_server: Server) -> None:
    with Peer(make_session(each_server)["websocketUrl"]) as peer:
        peer.socket.send(iter(['["na', "ï", 've"', "]"]))
        assert peer.until_type("reply")["data"] == ["naïve"]
        peer.socket.send(iter([b"?", b"ab", b"c"]))
        assert peer.until_type("reply")["data"] == 4


@pytest.mark.parametrize("text", ["", "{", "NaN", '{"a": Infinity}', "[" * 100_000])
def test_a_text_that_is_no_json_is_an_error_and_the_socket_stays(each_server: Server, text: str) -> None:
    with Peer(make_session(each_server)["websocketUrl"]) as peer:
        peer.socket.send(text)
        error = peer.until_type("error")
        assert error["cursor"] is None
        assert set(error["data"]) == {"error"}
        assert "JSON" in error["data"]["error"]
        assert peer.ask(1) == 1


def test_half_a_surrogate_pair_is_an_error_and_the_socket_stays(each_server: Server) -> None:
    with Peer(make_session(each_server)["websocketUrl"]) as peer:
        peer.socket.send('"\\ud800"')
        assert "surrogate" in peer.until_type("error")["data"]["error"]
        assert peer.ask(1) == 1


def test_what_fails_in_the_handler_is_told_without_details_and_logged(each_server: Server) -> None:
    session = make_session(each_server)
    with Peer(session["websocketUrl"]) as peer:
        for message in ({"fail": True}, {"bad": True}, b"!"):
            assert peer.ask(message) == {"error": "The message could not be handled."}
        assert peer.ask(1) == 1
    assert each_server.log.read_text().count("a secret detail") >= 2
    counted = stats(each_server, session["id"])
    assert (counted["audioChunksReceived"], counted["audioChunksProcessed"]) == (1, 0)


def test_a_refusal_of_the_package_is_told_as_a_route_tells_it(each_server: Server) -> None:
    session = make_session(each_server)
    failures = each_server.log.read_text().count("Traceback")
    with Peer(session["websocketUrl"]) as peer:
        started = peer.ask({"alone": True})
        refused = peer.ask({"alone": True})
        assert refused == {
            "error": "A task of this conversation is running.",
            "taskId": started["taskId"],
            "sessionId": session["id"],
            "conversationId": session["conversationId"],
        }
    assert each_server.log.read_text().count("Traceback") == failures


def test_chunks_are_counted_when_they_come_and_when_they_are_handled(each_server: Server) -> None:
    session = make_session(each_server)
    with Peer(session["websocketUrl"]) as peer:
        for _ in range(20):
            peer.say(b"chunk")
        peer.ask(b"!")
    wait_until(lambda: stats(each_server, session["id"])["audioChunksReceived"] == 21, 10, "the chunks are written")
    assert stats(each_server, session["id"])["audioChunksProcessed"] == 20


def test_what_was_said_last_before_a_close_is_heard(each_server: Server) -> None:
    session = make_session(each_server)
    for _ in range(5):
        with Peer(session["websocketUrl"]) as peer:
            for _ in range(40):
                peer.say(b"chunk")
    wait_until(lambda: stats(each_server, session["id"])["audioChunksProcessed"] >= 200, 5, "all chunks are handled")
    assert stats(each_server, session["id"])["audioChunksReceived"] == 200


def test_a_message_may_be_as_big_as_a_body_and_no_bigger(each_server: Server) -> None:
    with Peer(make_session(each_server)["websocketUrl"]) as peer:
        assert peer.ask(b"?" * MAXIMUM) == MAXIMUM
        assert len(peer.ask("x" * (MAXIMUM - 2))) == MAXIMUM - 2
        assert len(peer.ask("ü" * (MAXIMUM // 12))) == MAXIMUM // 12
    for message in (b"?" * (MAXIMUM + 1), b"?" * 20 * MAXIMUM, json.dumps("ü" * (MAXIMUM // 2), ensure_ascii=False)):
        with Peer(make_session(each_server)["websocketUrl"]) as peer:
            peer.socket.send(message)
            assert peer.closed() == (1009, f"A message has at most {MAXIMUM} bytes.")


def test_a_slow_handler_does_not_keep_the_events_waiting(each_server: Server) -> None:
    session = make_session(each_server)
    with Peer(session["websocketUrl"]) as peer:
        peer.say({"wait": True})
        task_id = start(each_server, session, 3)
        peer.until(end_of(task_id))
        assert peer.of("reply") == []
        each_server.client.post("/release")
        peer.until_type("reply")


# Out


def test_one_socket_gets_one_task_after_the_other_with_the_cursors_of_their_streams(each_server: Server) -> None:
    session = make_session(each_server)
    with Peer(session["websocketUrl"]) as peer:
        sent = []
        for upto in (3, 0, 200):
            task_id = peer.ask({"count": [upto, 0]})["taskId"]
            if not any(end_of(task_id)(frame) for frame in peer.frames):
                peer.until(end_of(task_id))
            path = f"/api/v1/sessions/{session['id']}/tasks/{task_id}/events"
            with each_server.client.stream(path, {"Accept": "text/event-stream"}) as stream:
                sent += [(frame.id, frame.type) for frame in stream if frame.id is not None]
        assert peer.events == sent
        assert len(sent) == 206
        assert peer.of("gap") == []


def test_a_task_that_begins_right_after_the_socket_is_open_is_followed_at_once(each_server: Server) -> None:
    for _ in range(5):
        session = make_session(each_server)
        with Peer(session["websocketUrl"]) as peer:
            task_id = start(each_server, session, 5, 0.02)
            peer.until(end_of(task_id))
            assert [frame["data"]["number"] for frame in peer.of("number")] == [1, 2, 3, 4, 5]
            assert peer.of("status")[0]["data"]["state"] in ("pending", "running")


def test_tasks_that_run_at_once_both_come_whole(each_server: Server) -> None:
    session = make_session(each_server)
    with Peer(session["websocketUrl"]) as peer:
        tasks = [start(each_server, session, 20, 0.01) for _ in range(3)]
        for task_id in tasks:
            peer.until(end_of(task_id))
    epochs = sorted({Cursor.parse(cursor).epoch for cursor, _ in peer.events})
    assert [cursor for cursor, _ in peer.events] == [name for epoch in epochs for name in cursors_of(21, epoch)]


def test_without_a_cursor_the_latest_task_comes_again_and_with_0_0_everything(each_server: Server) -> None:
    session = make_session(each_server)
    with Peer(session["websocketUrl"]) as peer:
        for upto in (2, 3):
            peer.until(end_of(start(each_server, session, upto)))
    everything = peer.events
    with Peer(session["websocketUrl"]) as again:
        again.until_type("end")
        assert again.events == everything[3:]
    with Peer(session["websocketUrl"], "0-0") as again:
        for _ in range(2):
            again.until_type("end")
        assert again.events == everything
    with Peer(session["websocketUrl"], peer.cursor) as again:
        again.until(end_of(start(each_server, session, 1)))
        assert len(again.events) == 2
        assert again.of("gap") == []


def test_a_cursor_of_nothing_that_is_here_is_told(each_server: Server) -> None:
    session = make_session(each_server)
    with Peer(session["websocketUrl"]) as peer:
        peer.until(end_of(start(each_server, session, 2)))
        epoch = Cursor.parse(peer.events[0][0]).epoch
    for cursor in ("5-5", f"{epoch}-99", f"{epoch + 10**6}-1"):
        with Peer(session["websocketUrl"], cursor) as again:
            again.until_type("end")
        told = {"requested": cursor, "firstAvailable": f"{epoch}-1"}
        assert again.frames[0] == {"cursor": None, "type": "gap", "data": told}
        assert again.events == peer.events


# Refused


@pytest.mark.parametrize(
    ("session_id", "options", "status"),
    [
        ("", {"additional_headers": {"X-User": ""}}, 401),
        ("", {"additional_headers": {"X-User": "else"}}, 404),
        ("x", {}, 404),
        ("", {"origin": "http://evil.example"}, 403),
    ],
    ids=["nobody", "somebody-else", "unknown", "another-origin"],
)
def test_refusals_are_http_statuses_with_the_usual_bodies(
    each_server: Server, session_id: str, options: dict[str, Any], status: int
) -> None:
    session = make_session(each_server)
    with pytest.raises(InvalidStatus) as refused:
        Peer(session["websocketUrl"] + session_id, **options)
    response = refused.value.response
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/json"
    assert json.loads(response.body or b"")["error"]


def test_a_page_of_this_origin_may_connect(each_server: Server) -> None:
    with Peer(make_session(each_server)["websocketUrl"], origin=each_server.url) as peer:
        assert peer.ask(1) == 1


# The end


@pytest.mark.parametrize("working", [False, True], ids=["idle", "working"])
def test_a_deleted_session_closes_its_sockets_after_an_end_frame(each_server: Server, working: bool) -> None:
    session = make_session(each_server)
    with Peer(session["websocketUrl"]) as peer, Peer(session["websocketUrl"]) as other:
        if working:
            start(each_server, session, 100_000, 0.01)
            for each in (peer, other):
                each.until_type("number")
        else:
            assert peer.ask(1) == other.ask(1) == 1
        each_server.client.request("DELETE", f"/api/v1/sessions/{session['id']}")
        for each in (peer, other):
            assert each.closed() == (1000, "The session is over.")
            last = each.frames[-1]
            assert (last["type"], last["data"]["errorType"]) == ("end", "SessionDeleted")
            assert len(each.of("end")) == 1
    with pytest.raises(InvalidStatus) as refused:
        Peer(session["websocketUrl"])
    assert refused.value.response.status_code == 404


def test_a_client_that_closes_is_answered_and_the_session_stays(each_server: Server) -> None:
    session = make_session(each_server)
    with Peer(session["websocketUrl"]) as peer:
        assert peer.ask(1) == 1
    assert (peer.socket.close_code, peer.socket.protocol.close_rcvd_then_sent) == (1000, False)
    found = each_server.client.get(f"/api/v1/sessions/{session['id']}").json
    assert found["expiresAt"] > session["expiresAt"]


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_that_ends_closes_with_going_away_and_the_client_goes_on_elsewhere(
    serve: Callable[..., Server], storage: str, name: str
) -> None:
    settings = {"STORAGE_URI": storage}
    working, ending = serve("gthread", **settings), serve(name, **settings)
    session = make_session(ending)
    with Peer(session["websocketUrl"]) as idle, Peer(session["websocketUrl"]) as peer:
        assert idle.ask(1) == 1
        task_id = start(working, session, 300, 0.005)
        while len(peer.of("number")) < 20:
            peer.receive()
        ending.terminate()
        assert peer.closed() == (1001, "This process is ending.")
        assert idle.closed() == (1001, "This process is ending.")
    assert peer.of("end") == []
    elsewhere = session["websocketUrl"].replace(ending.url.partition("://")[2], working.url.partition("://")[2])
    with Peer(elsewhere, peer.cursor) as again:
        again.until(end_of(task_id))
    numbers = [frame["data"]["number"] for frame in peer.of("number") + again.of("number")]
    assert numbers == list(range(1, 301))
    assert ending.process.wait(20) is not None
    assert "Traceback" not in ending.log.read_text()


@pytest.mark.parametrize("name", SERVERS)
def test_places_are_bounded_and_given_back(serve: Callable[..., Server], name: str) -> None:
    server = serve(name, STORAGE_URI="memory://", MAX_FOLLOWERS=1)
    session = make_session(server)
    for _ in range(3):
        with Peer(session["websocketUrl"]) as peer:
            assert peer.ask(1) == 1
            with Peer(session["websocketUrl"]) as other:
                assert other.closed() == (1013, "Too many are connected here.")
            with server.client.stream(
                f"/api/v1/conversations/{session['conversationId']}/resume/{session['id']}"
            ) as stream:
                assert stream.status == 204
        wait_until(lambda: server.client.get("/api/v1/stats").json["followers"] == 0, 5, "the place is free")
    assert "Traceback" not in server.log.read_text()
