"""The page of README.md in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from processes.client import Client, wait_until
from readme.relay import Relay

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

ANSWER = "You asked: Why? This is where a model would answer, word by word."


def ask(page: Page, url: str) -> None:
    page.goto(f"{url}/static/index.html")
    page.fill("[name=question]", "Why?")
    page.click("text=Ask")


def shows(page: Page, selector: str, text: str) -> None:
    """Wait until an element shows that text."""
    page.wait_for_function(
        "([selector, text]) => document.querySelector(selector).textContent.trim() === text", arg=[selector, text]
    )


def has_words(page: Page, count: int) -> None:
    """Wait until the answer has that many words."""
    script = "(count) => document.querySelector('#answer').textContent.split(' ').length > count"
    page.wait_for_function(script, arg=count)


def test_the_answer_appears_while_it_is_written(page: Page, host: Callable[..., Client]) -> None:
    ask(page, host().url)
    has_words(page, 3)
    assert page.text_content("#answer") in [" ".join([*ANSWER.split()[:n], ""]) for n in range(3, 13)]
    assert "of 13" in (page.text_content("#state") or "")
    shows(page, "#answer", ANSWER)
    shows(page, "#state", "completed")


def test_after_a_reload_it_goes_on_and_nothing_is_missing_or_double(page: Page, host: Callable[..., Client]) -> None:
    ask(page, host().url)
    has_words(page, 3)
    page.reload()
    has_words(page, 5)
    page.reload()
    shows(page, "#answer", ANSWER)
    shows(page, "#state", "completed")
    page.reload()
    shows(page, "#answer", ANSWER)


def test_after_the_network_was_lost_it_goes_on_and_nothing_is_missing_or_double(
    page: Page, host: Callable[..., Client]
) -> None:
    port = urlsplit(host().url).port
    assert port is not None
    relay = Relay(port)
    try:
        ask(page, f"http://127.0.0.1:{relay.port}")
        has_words(page, 3)
        assert relay.cut() > 0
        shows(page, "#answer", ANSWER)
        shows(page, "#state", "completed")
    finally:
        relay.close()


def test_stop_stops(page: Page, host: Callable[..., Client]) -> None:
    ask(page, host().url)
    has_words(page, 2)
    page.click("#stop")
    shows(page, "#state", "cancelled")
    assert page.text_content("#answer") != ANSWER


def test_a_page_that_comes_too_late_for_the_first_events_says_so(page: Page, host: Callable[..., Client]) -> None:
    client = host(MAX_EVENTS=5)
    client.post("/ask/c1", question="Why?")
    active = f"{client.conversation('c1')}/active-session"
    wait_until(lambda: int(client.get(active).json["cursor"].partition("-")[2]) > 7, 10, "the eighth event")
    page.goto(f"{client.url}/static/index.html#c1")
    page.wait_for_function("document.querySelector('#answer').textContent.startsWith('[…]')")
    shows(page, "#state", "completed")
    told = (page.text_content("#answer") or "").removeprefix("[…] ")
    assert ANSWER.endswith(told.strip())
    assert 0 < len(told.split()) < 13
