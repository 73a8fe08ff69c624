"""F3, F20: a generation read over connections that are cut 50 times has its text, exactly once, then silence."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from clients.conftest import RETRY_MS, node_of
from clients.host import Generation, Host
from clients.node import Script
from clients.relay import Relay
from httpx_sse import connect_sse

if TYPE_CHECKING:
    from playwright.sync_api import Page

CUTS = 50
TOKENS = 500
PACE = 0.002
# Chromium takes a head that breaks off for a whole one, and a head without a type ends its EventSource for good.
LEAST, MOST = 400, 1000
SILENCE = 15 * RETRY_MS / 1000
CONVERSATION, SESSION = "c 1:*?[%]#&+ü", "s 1:*?[%]#&+ü"

ALL_CUTS = 90_000
"""Milliseconds for a browser to come back from all of them, on a machine that does other things as well."""

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(params=["memory", "redis"])
def host(request: pytest.FixtureRequest, make_host: Callable[..., Host]) -> Host:
    if request.param == "memory":
        return make_host()
    url = request.getfixturevalue("redis_url")("newest")
    return make_host(STORAGE_URI=url, KEY_PREFIX=f"clients-{time.monotonic_ns()}:")


@pytest.fixture
def generation(host: Host, relay: Relay) -> Iterator[Generation]:
    """A generation behind a relay that cuts each of the next connections somewhere."""
    seed = time.monotonic_ns() % 1_000_000
    print(f"seed {seed}")  # noqa: T201
    generation = host.generate(CONVERSATION, TOKENS, PACE, session_id=SESSION)
    relay.cut_often(seed, CUTS, LEAST, MOST)
    yield generation
    host.join()


@pytest.fixture
def client_page(page: Page) -> Page:
    """The page with client.js, which came before anything was cut."""
    page.evaluate("async () => { window.client = await import('/api/v1/client.js'); }")
    return page


def told_once(host: Host, relay: Relay, generation: Generation, events: list[Any], ids: list[str]) -> None:
    """All cuts happened, every token and the end came once and in order, and nobody asks again."""
    assert relay.cuts == CUTS
    assert events == generation.tokens
    epochs, numbers = zip(*(each.split("-") for each in ids), strict=True)
    assert len(set(epochs)) == 1
    assert [int(number) for number in numbers] == list(range(1, TOKENS + 2))
    asked = len(host.streams())
    threading.Event().wait(SILENCE)
    assert len(host.streams()) == asked


def ended_with_204(host: Host, ids: list[str]) -> None:
    """The last that was asked for came with the end's id, and there was nothing more."""
    assert [each.status for each in host.streams()].count(204) == 1
    assert (host.streams()[-1].status, host.streams()[-1].cursor) == (204, ids[-1])


@pytest.mark.browser
def test_the_browsers_eventsource(host: Host, relay: Relay, page: Page, generation: Generation) -> None:
    page.evaluate(
        """(url) => {
            window.told = [], window.ids = [], window.ends = [];
            window.source = new EventSource(url);
            source.addEventListener("token", ({ data, lastEventId }) => {
                told.push(JSON.parse(data).text);
                ids.push(lastEventId);
            });
            source.addEventListener("end", ({ data, lastEventId }) => {
                ends.push(JSON.parse(data).state);
                ids.push(lastEventId);
            });
        }""",
        relay.url + host.stream_path(generation),
    )
    page.wait_for_function("window.source.readyState === EventSource.CLOSED", timeout=ALL_CUTS)
    assert page.evaluate("ends") == ["completed"]
    ids = page.evaluate("ids")
    told_once(host, relay, generation, page.evaluate("told"), ids)
    ended_with_204(host, ids)


def test_the_eventsource_of_npm(
    host: Host, relay: Relay, generation: Generation, packages: Path, script: Callable[..., Script]
) -> None:
    url = relay.url + host.stream_path(generation)
    lines = script(node_of(20), packages / "eventsource.mjs", url, folder=packages).finish()
    assert lines.pop() == {"on": "closed", "code": 204}
    assert [line["data"]["state"] for line in lines if line["on"] == "end"] == ["completed"]
    ids = [line["id"] for line in lines]
    told_once(host, relay, generation, [line["data"]["text"] for line in lines if line["on"] == "token"], ids)
    ended_with_204(host, ids)


def test_httpx_sse(host: Host, relay: Relay, generation: Generation) -> None:
    url, told, ids = relay.url + host.stream_path(generation), [], []
    with httpx.Client(timeout=20) as client:
        while True:
            headers = {"Last-Event-ID": ids[-1]} if ids else {}
            try:
                with connect_sse(client, "GET", url, headers=headers) as source:
                    if source.response.status_code == 204:
                        break
                    for event in source.iter_sse():
                        if event.event in ("token", "end"):
                            told.append(json.loads(event.data))
                            ids.append(event.id)
            except httpx.TransportError:
                threading.Event().wait(RETRY_MS / 1000)
    assert told.pop()["state"] == "completed"
    told_once(host, relay, generation, [each["text"] for each in told], ids)
    ended_with_204(host, ids)


def test_client_js_in_node(host: Host, relay: Relay, generation: Generation, follow: Callable[..., Script]) -> None:
    following = follow(CONVERSATION)
    lines = following.finish()
    (end,) = following.of("end")
    assert end["state"] == "completed"
    (done,) = following.of("done")
    assert (done["state"], done["session"]) == ("completed", SESSION)
    assert lines.index(end) > lines.index(following.of("event")[-1])
    assert following.of("gap") == following.of("error") == []
    events = following.of("event")
    told = [event["data"]["text"] for event in events]
    told_once(host, relay, generation, told, [*(event["cursor"] for event in events), done["cursor"]])


@pytest.mark.browser
def test_client_js_in_a_browser(host: Host, relay: Relay, client_page: Page, generation: Generation) -> None:
    client_page.evaluate(
        """(conversation) => {
            window.told = [], window.ids = [];
            window.following = client.follow(conversation, {
                onEvent: ({ data, cursor }) => { told.push(data.text); ids.push(cursor); },
            });
            following.done.then((end) => { window.end = end; });
        }""",
        CONVERSATION,
    )
    client_page.wait_for_function("window.end", timeout=ALL_CUTS)
    assert client_page.evaluate("end.state") == "completed"
    ids = [*client_page.evaluate("ids"), client_page.evaluate("following.cursor")]
    told_once(host, relay, generation, client_page.evaluate("told"), ids)
