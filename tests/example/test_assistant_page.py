"""The assistant's pages in a real browser, against a real server."""

import re

import pytest
from example.pages import expect, finished, lines, overflow, state, wait_for_lines

from example_app.shelf import ask as found

pytestmark = pytest.mark.browser

PEOPLE = "How many people live in Almelo?"
LONG = "What does the Hatter say?"


@pytest.fixture
def page(context):
    page = context.new_page()
    page.goto("/assistant")
    return page


def begin(page, question):
    page.get_by_label("Your question").fill(question)
    page.get_by_label("Your question").press("Enter")
    page.wait_for_url(re.compile(r"/assistant/[0-9a-f-]{36}$"))


def ask(page, question):
    page.get_by_label("Ask on").fill(question)
    page.get_by_label("Ask on").press("Enter")
    expect(page.locator(".question").last).to_have_text(question)
    finished(page)


def converse(page, first, *others):
    begin(page, first)
    finished(page)
    for question in others:
        ask(page, question)


def sentences(question):
    return [sentence.text for sentence in found(question).sentences]


def row(page, name):
    return page.get_by_role("listitem").filter(has=page.get_by_role("link", name=name))


def rename(page, name, title):
    row(page, name).hover()
    page.get_by_role("button", name=f"Rename “{name}”").click()
    page.get_by_label("Title").fill(title)
    page.get_by_label("Title").press("Enter")


def delete(page, name):
    row(page, name).hover()
    page.get_by_role("button", name=f"Delete “{name}”").click()
    page.get_by_role("button", name="Delete", exact=True).click()


# Asking


def test_an_elliptical_question_is_answered_and_the_page_says_how_it_was_understood(page):
    converse(page, PEOPLE, "and in Enschede?", "and which river flows there?")
    expect(page.locator(".understood")).to_have_text(
        ["Understood as: How many people live in Enschede?", "Understood as: Which river flows in Enschede?"]
    )
    shown = [*sentences(PEOPLE), *sentences("How many people live in Enschede?"), *sentences("River in Enschede?")]
    assert lines(page) == shown
    expect(page.locator(".place").last).to_have_text("Twenty-Two Dutch Towns · Enschede")
    page.reload()
    expect(page.locator(".understood")).to_have_count(2)
    finished(page)
    assert lines(page) == shown


def test_a_question_can_be_picked(page):
    page.get_by_role("button", name="Who stole the tarts?").click()
    page.wait_for_url(re.compile(r"/assistant/[0-9a-f-]{36}$"))
    finished(page)
    expect(page.locator(".question")).to_have_text("Who stole the tarts?")
    assert lines(page) == sentences("Who stole the tarts?")


def test_what_a_question_lacks_is_asked_for(page):
    converse(page, "which river flows there?", "Deventer")
    expect(page.locator(".line").first).to_contain_text("nothing was named before")
    expect(page.locator(".understood")).to_have_text("Understood as: Which river flows in Deventer?")
    expect(page.locator(".line").last).to_contain_text("The river IJssel flows past Deventer")


def test_the_topic_is_shown_and_can_be_let_go(page):
    converse(page, PEOPLE)
    expect(page.locator("#memory")).to_contain_text("Talking about Almelo")
    page.get_by_role("button", name="Another subject").click()
    expect(page.locator("#memory")).not_to_be_visible()
    finished(page)
    expect(page.get_by_label("Ask on")).to_be_focused()
    ask(page, "which river flows there?")
    expect(page.locator(".line").last).to_contain_text("nothing was named before")


def test_a_second_tab_finds_what_was_asked_in_the_first(page, context):
    converse(page, PEOPLE)
    second = context.new_page()
    second.goto(page.url)
    finished(second)
    ask(page, "and in Enschede?")
    expect(second.locator(".understood")).to_have_text("Understood as: How many people live in Enschede?")
    expect(second.locator(".line").last).to_contain_text("160,000")


# Coming back, and stopping


def test_a_reload_in_the_middle_of_an_answer_keeps_it_and_goes_on(page, pace):
    pace.hold_after(words=3)
    begin(page, LONG)
    wait_for_lines(page, 1)
    before = " ".join(lines(page))
    page.reload()
    page.wait_for_function(
        "text => [...document.querySelectorAll('.line')].map(line => line.lastChild.data).join(' ').startsWith(text)",
        arg=before,
    )
    expect(state(page)).to_have_text("Looking it up")
    expect(page.locator(".question")).to_have_text(LONG)
    pace.go_on()
    finished(page)
    assert lines(page) == sentences(LONG)


def test_a_reload_in_the_middle_of_an_answer_still_says_how_it_was_understood(page, pace):
    converse(page, "What does the Queen say?")
    pace.hold_after(words=1)
    page.get_by_label("Ask on").fill("and the Hatter?")
    page.get_by_label("Ask on").press("Enter")
    expect(page.locator(".understood")).to_have_text(f"Understood as: {LONG}")
    page.reload()
    expect(page.locator(".understood")).to_have_text(f"Understood as: {LONG}")
    expect(state(page)).to_have_text("Looking it up")
    pace.go_on()
    finished(page)
    assert lines(page)[-3:] == sentences(LONG)


def test_stop_stops_keeps_what_was_told_and_the_conversation_goes_on(page, pace):
    pace.hold_after(words=3)
    begin(page, PEOPLE)
    wait_for_lines(page, 1)
    page.get_by_role("button", name="Stop").click()
    expect(state(page)).to_have_text("Stopped")
    kept = lines(page)
    page.reload()
    expect(page.locator(".outcome")).to_contain_text("Stopped.")
    assert lines(page) == kept
    pace.go_on()
    ask(page, "and in Enschede?")
    expect(page.locator(".line").last).to_contain_text("160,000")


# Conversations


def test_a_new_visitor_has_none_and_is_told_so(page):
    expect(page.locator("#listing")).to_have_text("None yet. What you start will be listed here.")


def test_a_conversation_is_listed_on_every_page_and_can_be_opened(page):
    converse(page, PEOPLE, "and in Enschede?")
    conversation = page.url
    for first_page in ("/", "/assistant"):
        page.goto(first_page)
        page.get_by_role("link", name=PEOPLE).click()
        page.wait_for_url(conversation)
        expect(page.locator(".question")).to_have_text([PEOPLE, "and in Enschede?"])
    expect(page.get_by_role("link", name=PEOPLE)).to_have_attribute("aria-current", "page")


def test_the_list_says_what_is_at_work_and_when_it_no_longer_is(page, pace):
    pace.hold_after(words=1)
    begin(page, LONG)
    page.goto("/")
    expect(page.locator(".row .since")).to_have_text("at work")
    pace.go_on()
    expect(page.locator(".row .since")).to_have_text("just now")


def test_a_text_that_is_read_is_listed_beside_what_is_asked(page):
    converse(page, PEOPLE)
    page.goto("/")
    page.get_by_role("button", name="The Gettysburg Address").click()
    finished(page)
    reading = page.url
    expect(page.get_by_role("link", name=PEOPLE)).to_be_visible()
    page.goto("/assistant")
    page.get_by_role("link", name="The Gettysburg Address").click()
    page.wait_for_url(reading)


def test_a_conversation_is_renamed(page):
    converse(page, PEOPLE)
    rename(page, PEOPLE, "Towns of Twente")
    expect(page.get_by_role("heading", name="Towns of Twente")).to_be_visible()
    expect(page).to_have_title("Towns of Twente – Reading along")
    page.reload()
    expect(page.get_by_role("link", name="Towns of Twente")).to_be_visible()
    expect(page.get_by_role("heading", name="Towns of Twente")).to_be_visible()


def test_a_title_is_text_and_never_markup(page):
    converse(page, PEOPLE)
    rename(page, PEOPLE, "<img src=x onerror=alert(1)>")
    page.reload()
    expect(page.get_by_role("heading", name="<img src=x onerror=alert(1)>")).to_be_visible()
    expect(page.get_by_role("link", name="<img src=x onerror=alert(1)>")).to_be_visible()


def test_nothing_is_renamed_or_deleted_by_somebody_who_thinks_better_of_it(page):
    converse(page, PEOPLE)
    row(page, PEOPLE).hover()
    page.get_by_role("button", name=f"Rename “{PEOPLE}”").click()
    page.get_by_label("Title").fill("Something else")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name=f"Delete “{PEOPLE}”").click()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.reload()
    expect(page.get_by_role("link", name=PEOPLE)).to_be_visible()


def test_another_conversation_is_deleted_and_this_one_stays(page):
    converse(page, "Who stole the tarts?")
    page.goto("/assistant")
    converse(page, PEOPLE)
    delete(page, "Who stole the tarts?")
    expect(page.get_by_role("link", name="Who stole the tarts?")).to_have_count(0)
    expect(page.get_by_role("link", name=PEOPLE)).to_be_focused()
    page.reload()
    expect(page.get_by_role("link", name=PEOPLE)).to_be_visible()
    expect(page.get_by_role("link", name="Who stole the tarts?")).to_have_count(0)


def test_deleting_the_open_conversation_leads_to_a_new_one(page):
    converse(page, PEOPLE)
    conversation = page.url
    delete(page, PEOPLE)
    page.wait_for_url("**/assistant")
    expect(page.locator("#listing")).to_contain_text("None yet")
    page.goto(conversation)
    expect(page.locator("#empty")).to_contain_text("There is nothing in this conversation, or it is over.")
    page.get_by_role("link", name="Ask something new").click()
    expect(page.get_by_label("Your question")).to_be_visible()


def test_everything_about_a_conversation_can_be_done_with_the_keyboard(page):
    converse(page, PEOPLE)
    page.get_by_role("link", name=PEOPLE).focus()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name=f"Rename “{PEOPLE}”")).to_be_focused()
    expect(page.locator(".row .rename")).to_have_css("opacity", "1")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Title")).to_be_focused()
    page.keyboard.type("Twente")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Rename “Twente”")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/assistant")


def test_a_long_list_is_shown_page_by_page(page, context):
    action = page.locator("#begin").get_attribute("action")
    for number in range(14):
        asked = context.request.post(f"{action[:-2]}{number:02}", form={"question": f"Who is number {number}?"})
        assert asked.ok
    page.reload()
    expect(page.get_by_role("link", name="Who is number")).to_have_count(12)
    page.get_by_role("button", name="Show more").click()
    expect(page.get_by_role("link", name="Who is number")).to_have_count(14)
    expect(page.get_by_role("link", name="Who is number").nth(12)).to_be_focused()
    expect(page.get_by_role("button", name="Show more")).not_to_be_visible()


# When things go wrong


def test_a_conversation_that_goes_while_it_is_open_says_so(page, context):
    converse(page, PEOPLE)
    other = context.new_page()
    other.goto("/assistant")
    delete(other, PEOPLE)
    expect(page.locator("#over")).to_contain_text("This conversation is over: it was deleted, or kept no longer.")
    expect(page.locator(".line")).to_contain_text("73,000")
    expect(page.get_by_label("Ask on")).not_to_be_visible()
    page.get_by_role("link", name="Ask something new").click()
    page.wait_for_url("**/assistant")


def test_a_question_while_an_answer_is_given_is_declined_and_kept(page, pace):
    pace.hold_after(words=3)
    begin(page, LONG)
    wait_for_lines(page, 1)
    page.get_by_label("Ask on").fill("and the King?")
    page.get_by_label("Ask on").press("Enter")
    expect(page.locator("#hint")).to_contain_text("Something is still running here")
    expect(page.get_by_label("Ask on")).to_have_value("and the King?")


def test_a_title_that_cannot_be_saved_says_why_and_is_kept(page):
    converse(page, PEOPLE)
    page.route("**/sessions/**", lambda route: route.fulfill(status=503, json={"error": "The store is away."}))
    rename(page, PEOPLE, "Twente")
    expect(page.get_by_role("dialog").get_by_role("alert")).to_have_text("The store is away.")
    expect(page.get_by_label("Title")).to_have_value("Twente")
    page.unroute("**/sessions/**")
    page.get_by_role("button", name="Rename", exact=True).click()
    expect(page.get_by_role("link", name="Twente")).to_be_visible()


# Screens


@pytest.mark.parametrize("width", [360, 390])
def test_a_phone_never_scrolls_sideways(page, width):
    page.set_viewport_size({"width": width, "height": 740})
    assert overflow(page) == 0
    long = f"What is {'Donaudampfschifffahrt' * 8}?"
    converse(page, long, "and in Enschede?", f"and in {'Llanfairpwll' * 10}?")
    assert overflow(page) == 0
    page.get_by_role("link", name="All conversations").click()
    page.get_by_role("button", name="Delete").first.click()
    assert overflow(page) == 0
    dialog = page.get_by_role("dialog").bounding_box()
    assert dialog["x"] >= 0
    assert dialog["x"] + dialog["width"] <= width


def test_what_can_be_touched_is_large_enough_on_a_phone(page):
    page.set_viewport_size({"width": 390, "height": 740})
    converse(page, PEOPLE)
    page.get_by_role("link", name="All conversations").click()
    for name in ("Rename", "Delete"):
        box = page.get_by_role("button", name=f"{name} “{PEOPLE}”").bounding_box()
        assert min(box["width"], box["height"]) >= 44
