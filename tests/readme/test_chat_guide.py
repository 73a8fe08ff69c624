"""docs/chat.md: its three files in an empty folder beside the wheel, used in a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from processes.client import Client
from readme.blocks import blocks

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

GUIDE = "docs/chat.md"
ASKED = "How many live in Almelo?"
ANSWER = f"This is the answer to message 1, {ASKED} (about Almelo), word by word."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the host of the guide, and nothing else."""
    folder = tmp_path / "empty"
    (folder / "static").mkdir(parents=True)
    for name, code in blocks(GUIDE).items():
        (folder / name).write_text(code, encoding="utf-8")
    return folder


@pytest.fixture
def alice(page: Page, host: Callable[..., Client]) -> Page:
    """A page on which Alice has logged in and begun a chat."""
    log_in(page, host().url, "alice", "wonder")
    new(page, "Towns")
    page.wait_for_selector("#ask")
    return page


def log_in(page: Page, url: str, user: str, password: str) -> None:
    page.goto(f"{url}/static/chat.html")
    page.fill("#login [name=user]", user)
    page.fill("#login [name=password]", password)
    page.click("text=Log in")
    page.wait_for_selector("#login", state="hidden")


def new(page: Page, title: str, key: str = "") -> None:
    page.fill("#new [name=title]", title)
    page.fill("#new [name=key]", key)
    page.click("text=New")


def ask(page: Page, question: str) -> None:
    page.fill("[name=question]", question)
    page.click("text=Ask")


def shows(page: Page, selector: str, text: str) -> None:
    """Wait until an element's text holds that."""
    page.wait_for_function(
        "([selector, text]) => document.querySelector(selector).textContent.includes(text)", arg=[selector, text]
    )


def turns(page: Page, count: int) -> list[str]:
    """The turns, once there are so many."""
    page.wait_for_function("(count) => document.querySelectorAll('#turns li').length === count", arg=count)
    return [text.strip() for text in page.locator("#turns li").all_text_contents()]


def test_an_answer_is_seen_in_a_second_tab_and_after_a_reload_and_becomes_a_turn(alice: Page) -> None:
    tab = alice.context.new_page()
    tab.goto(alice.url)
    ask(alice, ASKED)
    shows(alice, "#answer", "This is")
    alice.reload()
    shows(alice, "#answer", "This is the")
    for page in (alice, tab):
        shows(page, "#question", ASKED)
        shows(page, "#answer", "answer to")
    for page in (alice, tab):
        assert turns(page, 2) == [f"user: {ASKED}", f"assistant: {ANSWER}"]
        assert (page.text_content("#question"), page.text_content("#answer")) == ("", "")
    alice.reload()
    assert len(turns(alice, 2)) == 2


def test_a_follow_up_is_about_the_town_of_the_question_before(alice: Page) -> None:
    ask(alice, ASKED)
    turns(alice, 2)
    ask(alice, "and how old is it?")
    assert turns(alice, 4)[3].startswith(
        "assistant: This is the answer to message 3, and how old is it? (about Almelo)"
    )


def test_a_stop_keeps_what_was_said_and_a_second_question_meanwhile_is_refused(alice: Page) -> None:
    ask(alice, ASKED)
    shows(alice, "#answer", "This is")
    ask(alice, "and in Hengelo?")
    shows(alice, "#state", "A task of this conversation is running.")
    alice.click("#stop")
    question, answer = turns(alice, 2)
    assert question == f"user: {ASKED}"
    assert f"assistant: {ANSWER}".startswith(answer)
    assert len(answer) < len(ANSWER)
    shows(alice, "#state", "cancelled")


def test_a_chat_is_renamed_and_deleted_also_for_the_tab_that_shows_it(alice: Page) -> None:
    tab = alice.context.new_page()
    tab.goto(alice.url)
    alice.fill("#rename [name=title]", "Twente")
    with alice.expect_response("**/sessions/*"):
        alice.click("text=Rename")
    alice.reload()
    shows(alice, "#chats", "Twente")
    alice.click("#delete")
    for page in (alice, tab):
        page.wait_for_url("**/chat.html")
        assert page.text_content("#chats") == ""


def test_a_locked_chat_opens_with_its_key(alice: Page) -> None:
    new(alice, "Secret", key="sesame")
    shows(alice, "#state", "key is missing or wrong")
    alice.fill("#key", "sesame")
    alice.press("#key", "Tab")
    ask(alice, ASKED)
    assert len(turns(alice, 2)) == 2


def test_a_user_has_five_chats_of_his_own(alice: Page, browser: Browser) -> None:
    for number in range(4):
        with alice.expect_event("load"):
            new(alice, f"Number {number}")
    new(alice, "One too many")
    shows(alice, "#state", "maximum of 5 live sessions")
    url = alice.url
    with browser.new_context() as context:
        bob = context.new_page()
        log_in(bob, url.partition("/static")[0], "bob", "builder")
        assert bob.text_content("#chats") == ""
        bob.goto(url)
        shows(bob, "#state", "Session not found")
