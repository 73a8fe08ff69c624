"""The assistant's pages while the store is away: a real Redis that is ended and started again."""

import re
import time

import pytest
from example.pages import WAIT, expect, finished
from servers import RedisServer, newest

pytestmark = pytest.mark.browser

ANSWERED = """
() => location.pathname !== "/assistant"
    || document.getElementById("problem").textContent && !document.getElementById("begin").dataset.sending
"""
AWAY = "Your conversations cannot be listed at the moment. Trying again…"


@pytest.fixture
def redis_server(redis_url):
    redis_url("newest")
    server = RedisServer(newest())
    server.start()
    yield server
    server.remove()


@pytest.fixture
def storage_uri(redis_server):
    return redis_server.url


@pytest.fixture
def page(context):
    page = context.new_page()
    page.goto("/assistant")
    return page


def begin(page):
    page.get_by_label("Your question").fill("How many people live in Almelo?")
    page.get_by_role("button", name="Ask", exact=True).click()


def test_a_first_page_without_a_store_says_so_keeps_the_question_and_recovers(page, redis_server):
    redis_server.stop()
    page.reload()
    expect(page.get_by_role("heading", name="Ask the shelf.")).to_be_visible()
    expect(page.locator("#listing")).to_have_text(AWAY)
    begin(page)
    expect(page.get_by_role("alert")).to_have_text(re.compile("store", re.IGNORECASE))
    expect(page.get_by_label("Your question")).to_have_value("How many people live in Almelo?")

    redis_server.start()
    expect(page.locator("#listing")).to_contain_text("None yet")
    ask_until_it_is_taken(page)
    finished(page)
    expect(page.locator(".line")).to_contain_text("73,000")


def ask_until_it_is_taken(page):
    """A store that came back empty takes nothing that must not run twice before it knows what runs: two heartbeats."""
    until = time.monotonic() + WAIT / 1000
    while time.monotonic() < until:
        page.get_by_role("button", name="Ask", exact=True).click()
        page.wait_for_function(ANSWERED)
        if not page.url.endswith("/assistant"):
            return
        page.wait_for_timeout(200)
    raise AssertionError("The question is not taken.")


def test_a_conversation_without_a_store_says_so_instead_of_nothing(page, redis_server):
    begin(page)
    page.wait_for_url(re.compile(r"/assistant/[0-9a-f-]{36}$"))
    finished(page)
    redis_server.stop()
    expect(page.locator("#banner")).to_contain_text("cannot reach its store")
    expect(page.locator(".line")).to_contain_text("73,000")
    page.reload()
    expect(page.locator("#banner")).to_contain_text("cannot reach its store")
    expect(page.locator("#listing")).to_have_text(AWAY)
    expect(page.locator("#empty")).not_to_be_visible()
    page.get_by_label("Ask on").fill("and in Enschede?")
    page.get_by_label("Ask on").press("Enter")
    expect(page.locator("#hint")).to_have_text(re.compile("store", re.IGNORECASE))
    expect(page.get_by_label("Ask on")).to_have_value("and in Enschede?")
