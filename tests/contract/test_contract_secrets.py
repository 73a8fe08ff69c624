"""Passwords and keys of a URI and its options are in nothing that is logged, answered or shown, whatever fails."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from servers import Silent, free_port
from topologies import CREDENTIALS, USER

from flask_sessionstatus import SessionStatus, StoreUnavailable

SECRET = "open-sesame-51"
OPTIONS = {"sentinel_kwargs": {"password": SECRET}}
Group = Callable[[str], Any]


def wrong(uri: str) -> str:
    """The URI with a password that is not the user's."""
    return uri.replace(CREDENTIALS, f"{USER}:{SECRET}")


def at(scheme: str, port: int, path: str = "") -> str:
    return f"{scheme}://{USER}:{SECRET}@127.0.0.1:{port}{path}"


@pytest.fixture
def silent() -> Iterator[int]:
    with Silent(b"HTTP/1.1 400 Bad Request\r\n\r\n") as server:
        yield int(server.url.rpartition(":")[2].partition("/")[0])


TROUBLES: dict[str, Callable[[Group, int, Path], tuple[str, dict[str, Any]]]] = {
    "wrong password": lambda group, _, __: (wrong(group("acl").uri), {}),
    "wrong password, Cluster": lambda group, _, __: (wrong(group("cluster").uri), {}),
    "wrong password, behind Sentinels": lambda group, _, __: (wrong(group("sentinel").uri), {}),
    "a password for Sentinels that want none": lambda group, _, __: (wrong(group("sentinel").uri), OPTIONS),
    "no such service": lambda group, _, __: (f"{wrong(group('sentinel').uri).rpartition('/')[0]}/other", {}),
    "away": lambda _, __, ___: (at("redis", free_port()), {}),
    "Sentinels away": lambda _, __, ___: (at("redis+sentinel", free_port(), "/main"), OPTIONS),
    "Cluster away": lambda _, __, ___: (at("redis+cluster", free_port()), {}),
    "no Redis": lambda _, silent, __: (at("redis", silent), {}),
    "no Sentinel": lambda _, silent, __: (at("redis+sentinel", silent, "/main"), OPTIONS),
    "no Cluster": lambda _, silent, __: (at("redis+cluster", silent), {}),
    "no TLS": lambda _, silent, __: (at("rediss", silent), {}),
    "no such socket": lambda _, __, path: (f"unix://{USER}:{SECRET}@{path}/no.sock", {}),
    "a name that nobody has": lambda _, __, ___: (f"redis://{USER}:{SECRET}@nowhere.invalid", {}),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_nothing_that_is_said_holds_a_secret(
    trouble: str, group: Group, silent: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    uri, options = TROUBLES[trouble](group, silent, tmp_path)
    said: list[str] = []
    app = Flask("host")
    app.config.update(SESSIONSTATUS_STORAGE_URI=uri, SESSIONSTATUS_STORAGE_OPTIONS=options, PROPAGATE_EXCEPTIONS=False)
    sessionstatus = SessionStatus(app, identify=lambda: "u1", is_operator=lambda: True)
    app.register_blueprint(sessionstatus.create_blueprint())
    client = app.test_client()
    paths = ["/health", "/stats", "/conversations/c1/active-session", "/conversations/c1/stream", "/sessions/s1"]
    for path in paths:
        answer = client.get(path, headers={"Accept": "text/event-stream"} if "stream" in path else {})
        assert answer.status_code in (200, 503)
        said += [answer.get_data(as_text=True), str(answer.headers)]
    with app.app_context(), pytest.raises(StoreUnavailable) as away, sessionstatus.run("c1", namespace_id="u1"):
        pass
    said += [str(away.value), repr(away.value), repr(away.value.__dict__)]
    state = app.extensions["sessionstatus"]
    woken = threading.Event()
    wakeups = state.store.wakeups(lambda *_: woken.set())
    assert not woken.wait(0.2)
    wakeups.close()
    calls = state.store._calls
    said += [repr(each) for each in (sessionstatus, state, state.engine, state.store, calls, calls.servers, wakeups)]
    said += [repr(value) for value in vars(calls.servers).values()]
    state.shutdown(2)
    said.append(caplog.text)
    assert "The store is unavailable" in caplog.text
    assert SECRET not in "\n".join(said)
