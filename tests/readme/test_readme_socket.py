"""The socket's example of README.md, in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from processes.client import Client, wait_until
from readme.blocks import blocks
from readme.relay import Relay

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

ANSWER = "You asked: Why? This is where a model would answer, word by word."


@pytest.fixture
def client(folder: Path, host: Callable[..., Client]) -> Client:
    """The host application with what the section adds to it."""
    with (folder / "app.py").open("a", encoding="utf-8") as program:
        program.write("\n" + blocks()["on_message"])
    for name in ("static/socket.html", "static/socket.js"):
        (folder / name).write_text(blocks()[name], encoding="utf-8")
    return host(WEBSOCKET_PATH="/ws")


def shows(page: Page, text: str) -> None:
    page.wait_for_function("(text) => document.querySelector('#answer').textContent.trim() === text", arg=text)


def ask(page: Page, url: str) -> None:
    page.goto(f"{url}/static/socket.html")
    page.fill("[name=question]", "Why?")
    page.click("#ask")


def test_a_question_goes_in_and_the_answer_comes_out(page: Page, client: Client) -> None:
    ask(page, client.url)
    shows(page, ANSWER)
    page.click("#ask")
    shows(page, f"{ANSWER} {ANSWER}")


def test_what_is_spoken_is_heard_and_counted(page: Page, client: Client) -> None:
    with page.expect_response("**/api/v1/sessions") as made:
        ask(page, client.url)
    page.click("#speak")
    page.wait_for_function("Number(document.querySelector('#heard').value) > 2000")
    shows(page, ANSWER)
    session_id = made.value.json()["id"]
    page.close()
    path = f"/api/v1/sessions/{session_id}/stats"
    wait_until(lambda: client.get(path).json["audioChunksReceived"] > 2, 10, "the chunks are written")
    stats = client.get(path).json
    assert stats["audioChunksProcessed"] == stats["audioChunksReceived"]


def test_after_the_network_was_lost_it_goes_on_and_nothing_is_missing_or_double(page: Page, client: Client) -> None:
    port = urlsplit(client.url).port
    assert port is not None
    relay = Relay(port)
    try:
        ask(page, f"http://127.0.0.1:{relay.port}")
        page.wait_for_function("document.querySelector('#answer').textContent.split(' ').length > 3")
        assert relay.cut() > 0
        shows(page, ANSWER)
    finally:
        relay.close()
