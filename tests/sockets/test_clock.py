"""A session and its sockets over time: the connect deadline, expiry, access that is taken away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from processes.client import wait_until
from sockets.conftest import Served
from sockets.peers import Peer
from websockets.exceptions import InvalidStatus

from flask_sessionstatus.stores.base import Limits
from flask_sessionstatus.streaming import follower, hub

TTL = Limits().session_ttl
DEADLINE = Limits().connect_deadline


def made(served: Served) -> Any:
    return served.host.post("/sessions", base_url=f"http://{served.address}").json


def test_a_session_that_nobody_connects_to_is_over_at_the_deadline(serve_here: Callable[..., Served]) -> None:
    served = serve_here()
    session = made(served)
    served.host.clock.move(DEADLINE)
    assert served.host.get(f"/sessions/{session['id']}").status_code == 404
    with pytest.raises(InvalidStatus) as refused:
        Peer(session["websocketUrl"])
    assert refused.value.response.status_code == 404


def test_connecting_lifts_the_deadline_and_closing_does_not_end_the_session(serve_here: Callable[..., Served]) -> None:
    served = serve_here()
    session = made(served)
    served.host.clock.move(DEADLINE - 1000)
    with Peer(session["websocketUrl"]):
        pass
    wait_until(lambda: served.host.state.engine.hub.followers == 0, 5, "the socket is closed")
    served.host.clock.move(TTL - 1000)
    found = served.host.get(f"/sessions/{session['id']}").json
    assert found is not None
    assert found["lastActivity"] == session["lastActivity"]
    with Peer(session["websocketUrl"]) as peer:
        peer.say(1)
        peer.until_type("error")
    wait_until(lambda: served.host.state.engine.hub.followers == 0, 5, "the socket is closed")
    served.host.clock.move(TTL)
    assert served.host.get(f"/sessions/{session['id']}").status_code == 404


def test_an_open_socket_keeps_its_session_alive_with_the_beat(serve_here: Callable[..., Served]) -> None:
    served = serve_here()
    session = made(served)
    with Peer(session["websocketUrl"]) as peer:
        peer.say(1)
        peer.until_type("error")
        for _ in range(12):
            served.host.clock.move(TTL // 3)
            assert served.host.state.engine.beats.beat()
        found = served.host.get(f"/sessions/{session['id']}").json
        assert found is not None
        assert found["expiresAt"] == served.host.clock.now + TTL
        peer.say(1)
        peer.until_type("error")


def test_a_session_that_expires_closes_its_socket_after_an_end_frame(
    serve_here: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "TICK", 0.05)
    served = serve_here(max_age=3600)
    session = made(served)
    with Peer(session["websocketUrl"]) as peer:
        peer.say(1)
        peer.until_type("error")
        served.host.clock.move(3_600_000)
        assert peer.closed() == (1000, "The session is over.")
    assert [frame["data"]["errorType"] for frame in peer.of("end")] == ["SessionDeleted"]


@pytest.mark.parametrize("working", [False, True], ids=["idle", "working"])
def test_who_may_not_see_the_conversation_any_more_is_cut_off(
    serve_here: Callable[..., Served], monkeypatch: pytest.MonkeyPatch, working: bool
) -> None:
    monkeypatch.setattr(hub, "TICK", 0.05)
    monkeypatch.setattr(follower, "ACCESS_INTERVAL", 0.1)
    served = serve_here()
    allowed = [True]
    served.host.extension.can_access(lambda namespace, conversation: allowed[0])
    if working:
        served.host.begin().append(["a"])
    else:
        served.host.session()
    with Peer(served.url()) as peer:
        if working:
            peer.until_type("token")
        allowed[0] = False
        assert peer.closed() == (1008, "This conversation is not yours to see.")


def test_without_a_handler_each_message_is_answered_by_an_error(serve_here: Callable[..., Served]) -> None:
    served = serve_here()
    served.host.session()
    with Peer(served.url()) as peer:
        for message in (b"chunk", {"a": 1}):
            assert peer.ask(message) == {"error": "Nobody here listens to messages."}
    wait_until(lambda: served.host.state.engine.hub.followers == 0, 5, "the socket is closed")
    stats = served.host.get("/sessions/s1/stats").json
    assert stats is not None
    assert (stats["audioChunksReceived"], stats["audioChunksProcessed"]) == (1, 0)


def test_the_handler_has_an_app_context_of_its_own_and_no_request(serve_here: Callable[..., Served]) -> None:
    from flask import g, has_request_context

    served = serve_here()
    served.host.session(metadata={"voice": "low"})
    torn_down: list[int] = []
    served.host.app.teardown_appcontext(lambda error: torn_down.append(g.get("number", 0)))

    @served.host.extension.on_message
    def hear(session: Any, message: Any) -> Any:
        assert not has_request_context()
        seen = g.get("number", 0)
        g.number = message.json
        return [seen, session.metadata, served.host.extension.sessions.get("s1").metadata]

    with Peer(served.url()) as peer:
        for number in (7, 8):
            assert peer.ask(number) == [0, {"voice": "low"}, {"voice": "low"}]
        assert torn_down[-2:] == [7, 8]


def test_a_fault_of_ours_closes_with_an_error_code(
    serve_here: Callable[..., Served], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    served = serve_here()
    served.host.session()

    def broken(*args: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(served.host.state.engine.hub, "attend", broken)
    with Peer(served.url()) as peer:
        assert peer.closed() == (1011, "")
    wait_until(lambda: served.host.state.engine.hub.followers == 0, 5, "the place is free")
    assert "a defect" in caplog.text
