"""The page in a real browser, against a real server. Nothing here sleeps: every step waits for what it needs to see."""

import re

import pytest
from example.pages import expect, finished, frames, lines, overflow, state, wait_for_lines

from example_app.library import bundled_text
from example_app.summary import summarise

pytestmark = pytest.mark.browser


def summary_of(name):
    return [sentence.text for reading in summarise(bundled_text(name).text) for sentence in reading.found]


@pytest.fixture
def page(context):
    page = context.new_page()
    page.goto("/")
    return page


def pick(page, name):
    page.get_by_role("button", name=bundled_text(name).title).click()
    page.wait_for_url(re.compile(r"/c/[0-9a-f-]{36}$"))


def ask(page, question):
    page.get_by_label("Ask about the text").fill(question)
    page.get_by_label("Ask about the text").press("Enter")


# Reading


def test_a_picked_text_streams_in_and_is_complete(page, pace):
    pace.hold_after(words=3)
    pick(page, "gettysburg-address")
    wait_for_lines(page, 1)
    expect(state(page)).to_have_text("Reading")
    expect(page.get_by_role("progressbar")).to_be_visible()
    expect(page.locator("#doing")).to_contain_text("Section")
    assert lines(page) != summary_of("gettysburg-address")
    pace.go_on()
    finished(page)
    assert lines(page) == summary_of("gettysburg-address")
    expect(page.get_by_role("heading", name="The Gettysburg Address")).to_be_visible()


def test_words_come_one_by_one(page, pace):
    words = summary_of("constitution")[0].split()
    pace.hold_after(words=2)
    pick(page, "constitution")
    for count in (2, 3, 4):
        expect(page.locator(".line").first).to_have_text(re.compile(f"{' '.join(words[:count])}$"))
        pace.go_on(1)


def test_the_time_left_is_told_once_it_can_be_known(page, app):
    app.config["EXAMPLE_TOKENS_PER_SECOND"] = 200
    pick(page, "alice-in-wonderland")
    expect(page.locator("#left")).to_have_text(re.compile(r"^about \d+½? (s|min) left$"))


def test_a_pasted_text_is_read(page):
    page.get_by_label("Your text").fill("The river rose.\n\nIt rained in Delft for a week.")
    page.get_by_role("button", name="Read it").click()
    finished(page)
    assert "It rained in Delft for a week." in lines(page)


def test_a_file_is_read(page):
    page.get_by_label("Choose a .txt file").set_input_files(
        {"name": "weather.txt", "mimeType": "text/plain", "buffer": "Es regnete in Köln.".encode("cp1252")}
    )
    expect(page.locator("#count")).to_contain_text("weather.txt")
    page.get_by_role("button", name="Read it").click()
    finished(page)
    assert lines(page) == ["Es regnete in Köln."]


def test_an_empty_text_is_refused_where_it_was_typed(page):
    page.get_by_role("button", name="Read it").click()
    expect(page.get_by_role("alert")).to_contain_text("Paste a text")
    expect(page.get_by_label("Your text")).to_be_focused()


# Coming back


def test_a_reload_keeps_everything_so_far_and_goes_on_to_the_same_text(page, pace):
    pace.hold_after(summary_of("constitution")[0], words=3)
    pick(page, "constitution")
    wait_for_lines(page, 2)
    before = " ".join(lines(page))
    page.reload()
    page.wait_for_function(
        "text => [...document.querySelectorAll('.line')].map(line => line.lastChild.data).join(' ').startsWith(text)",
        arg=before,
    )
    expect(state(page)).to_have_text("Reading")
    page.reload()
    pace.go_on()
    finished(page)
    assert lines(page) == summary_of("constitution")


def test_a_reload_after_the_end_shows_the_same(page):
    pick(page, "gettysburg-address")
    finished(page)
    page.reload()
    finished(page)
    assert lines(page) == summary_of("gettysburg-address")


def test_a_second_tab_follows_the_same_stream(page, context, pace):
    pace.hold_after(summary_of("constitution")[0], words=3)
    pick(page, "constitution")
    wait_for_lines(page, 2)
    second = context.new_page()
    second.goto(page.url)
    wait_for_lines(second, 2)
    expect(state(second)).to_have_text("Reading")
    pace.go_on()
    finished(page)
    finished(second)
    assert lines(page) == lines(second) == summary_of("constitution")


def test_a_second_tab_finds_a_question_asked_in_the_first(page, context):
    pick(page, "constitution")
    finished(page)
    second = context.new_page()
    second.goto(page.url)
    finished(second)
    ask(page, "What is treason?")
    expect(second.locator(".question")).to_have_text("What is treason?")
    expect(second.locator(".exchange").last).to_contain_text("levying War")


def test_the_first_page_lists_the_conversation(page):
    pick(page, "gettysburg-address")
    finished(page)
    conversation = page.url
    page.goto("/")
    page.get_by_role("link", name="The Gettysburg Address").click()
    page.wait_for_url(conversation)
    finished(page)


def test_going_back_leads_to_a_new_conversation(page):
    pick(page, "gettysburg-address")
    finished(page)
    first = page.url
    page.go_back()
    pick(page, "constitution")
    finished(page)
    assert page.url != first
    assert lines(page) == summary_of("constitution")


# Stopping


def test_stop_stops_and_keeps_what_was_told(page, pace):
    pace.hold_after(words=3)
    pick(page, "constitution")
    wait_for_lines(page, 1)
    page.get_by_role("button", name="Stop").click()
    expect(state(page)).to_have_text("Stopped")
    kept = lines(page)
    assert kept
    assert kept != summary_of("constitution")
    page.reload()
    expect(state(page)).to_have_text("Stopped")
    expect(page.locator(".outcome")).to_contain_text("Stopped.")
    assert lines(page) == kept


def test_a_stopped_text_can_be_read_again(page, pace):
    pace.hold_after(words=3)
    pick(page, "gettysburg-address")
    wait_for_lines(page, 1)
    page.get_by_role("button", name="Stop").click()
    expect(state(page)).to_have_text("Stopped")
    pace.go_on()
    page.get_by_role("button", name="Read it again").click()
    finished(page)
    assert lines(page)[-3:] == summary_of("gettysburg-address")


# Asking


def test_a_follow_up_question_is_answered_from_the_text(page):
    pick(page, "constitution")
    finished(page)
    ask(page, "How old must the President be?")
    expect(page.locator(".exchange").last).to_contain_text("thirty five Years")
    finished(page)
    ask(page, "And a Senator?")
    expect(page.locator(".exchange").last).to_contain_text("No Person shall be a Senator")
    expect(page.locator(".exchange").last.get_by_role("heading").first).to_have_text("Article I, Section 3")
    finished(page)
    page.reload()
    expect(page.locator(".question")).to_have_text(["How old must the President be?", "And a Senator?"])


def test_what_the_text_does_not_say_is_said_so(page):
    pick(page, "gettysburg-address")
    finished(page)
    ask(page, "What is the capital of France?")
    expect(page.locator(".exchange").last).to_contain_text("The text does not say.")


def test_a_question_while_something_runs_is_declined_and_kept(page, pace):
    pace.hold_after(words=3)
    pick(page, "constitution")
    wait_for_lines(page, 1)
    ask(page, "What is treason?")
    expect(page.locator("#hint")).to_contain_text("Something is still running here")
    expect(page.get_by_label("Ask about the text")).to_have_value("What is treason?")


# When things go wrong


def test_a_lost_connection_is_told_and_mended(page, pace):
    pace.hold_after(words=1)
    page.route("**/resume/**", lambda route: route.abort("connectionreset"))
    pick(page, "gettysburg-address")
    expect(page.locator("#doing")).to_have_text(re.compile(r"^Connection lost, trying again in \d+ s$"))
    expect(state(page)).to_have_text("Reconnecting")
    page.unroute("**/resume/**")
    pace.go_on()
    finished(page)
    assert lines(page) == summary_of("gettysburg-address")


def test_a_store_that_is_away_is_told_until_it_is_back(page):
    pick(page, "gettysburg-address")
    finished(page)
    page.route("**/active-session", lambda route: route.fulfill(status=503, json={"error": "The store is away."}))
    expect(page.locator("#banner")).to_contain_text("cannot reach its store")
    page.unroute("**/active-session")
    expect(page.locator("#banner")).not_to_be_visible(timeout=15_000)


@pytest.mark.parametrize(
    ("ending", "shown", "told"),
    [
        ("lost", "Broke off", "The work stopped unexpectedly."),
        ("error", "Failed", "This could not be finished."),
        ("cancelled", "Stopped", "Stopped."),
    ],
)
def test_an_ending_is_told_in_plain_words(page, pace, ending, shown, told):
    pace.hold_after(words=1)
    body = frames(("token", '{"text": "Four"}'), ("end", f'{{"state": "{ending}"}}'))
    page.route("**/resume/**", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    pick(page, "constitution")
    expect(page.locator(".outcome")).to_contain_text(told)
    expect(page.locator(".line")).to_have_text("Four")


def test_what_is_missing_is_told_where_it_is_missing(page, pace):
    pace.hold_after(words=1)
    gap = ("gap", '{"requested": "1-1", "firstAvailable": "1-9"}')
    body = frames(("token", '{"text": "Four"}'), gap, ("token", '{"text": "years"}'), ("end", '{"state": "cancelled"}'))
    page.route("**/resume/**", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    pick(page, "constitution")
    expect(page.locator(".told > p")).to_have_text(["Four", re.compile("Something is missing here"), "years"])


def test_a_new_attempt_begins_with_a_clean_page(page, pace):
    pace.hold_after(words=1)
    body = frames(
        ("token", '{"text": "Wrong"}'),
        ("attempt", '{"attempt": 2}'),
        ("token", '{"text": "Right"}'),
        ("end", '{"state": "cancelled"}'),
    )
    page.route("**/resume/**", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    pick(page, "constitution")
    expect(page.locator(".line")).to_have_text("Right")


def test_an_unknown_conversation_says_so_and_leads_on(page):
    page.goto("/c/019953dd-6de7-7f7a-bf64-96c54db89201")
    expect(page.get_by_text("There is nothing in this conversation")).to_be_visible()
    page.get_by_role("link", name="Start with a text").click()
    expect(page.get_by_label("Your text")).to_be_visible()


# Screens


@pytest.mark.parametrize("width", [360, 390])
def test_a_phone_never_scrolls_sideways(page, pace, width):
    page.set_viewport_size({"width": width, "height": 740})
    assert overflow(page) == 0
    pace.hold_after(words=3)
    pick(page, "alice-in-wonderland")
    wait_for_lines(page, 1)
    assert overflow(page) == 0
    pace.go_on()
    finished(page)
    assert overflow(page) == 0
    ask(page, f"What is {'Donaudampfschifffahrt' * 8}?")
    expect(page.locator(".exchange").last).to_contain_text("The text does not say.")
    assert overflow(page) == 0


def test_the_dock_stays_where_it_is_while_the_text_grows(page, pace):
    pace.hold_after(words=3)
    pick(page, "constitution")
    wait_for_lines(page, 1)
    before = page.locator("#question").bounding_box()
    pace.go_on()
    finished(page)
    assert page.locator("#question").bounding_box() == pytest.approx(before, abs=1)
