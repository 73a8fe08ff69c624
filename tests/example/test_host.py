import io
import re

import pytest
from example.conftest import told

from example_app.library import bundled_text
from example_app.summary import summarise


def summary_of(name):
    text = bundled_text(name).text
    return " ".join(sentence.text for reading in summarise(text) for sentence in reading.found)


# Reading


def test_a_picked_text_is_summarised_in_the_background(visitor):
    started = visitor.submit(bundled="gettysburg-address")
    assert started.status_code == 202
    assert started.json["page"] == visitor.page
    assert told(visitor.events(started)) == summary_of("gettysburg-address")


def test_the_stored_turn_says_what_the_stream_said(visitor):
    started = visitor.submit(bundled="constitution")
    text = told(visitor.events(started))
    (turn,) = visitor.messages()
    assert (turn["role"], turn["content"]) == ("assistant", text)
    assert turn["results"] == {"taskId": started.json["taskId"]}
    assert " ".join(source["text"] for source in turn["sources"]) == text


def test_the_result_of_the_task_is_the_summary(visitor):
    started = visitor.submit(bundled="gettysburg-address")
    visitor.events(started)
    result = visitor.api(f"sessions/{started.json['sessionId']}/tasks/{started.json['taskId']}/result")
    assert result.json["text"] == summary_of("gettysburg-address")


def test_progress_goes_section_by_section_to_the_last(visitor):
    started = visitor.submit(bundled="alice-in-wonderland")
    visitor.events(started)
    task = visitor.api(f"sessions/{started.json['sessionId']}/tasks/{started.json['taskId']}").json
    assert task["progress"]["current"] == task["progress"]["total"] > 30
    assert task["progress"]["message"] == "Chapter XII, Alice’s Evidence"


def test_a_pasted_text_is_named_by_its_first_line(visitor):
    visitor.events(visitor.submit(text="A Report\n\nIt rained in Delft. The river rose."))
    assert visitor.api(f"sessions/{visitor.session_id}").json["metadata"]["title"] == "A Report"


def test_a_pasted_text_may_be_long(visitor):
    sentence = "Many " + "words " * 58 + "end."
    started = visitor.submit(text=f"{sentence} " * 4000)
    assert started.status_code == 202
    assert told(visitor.events(started)) == sentence


def test_an_uploaded_file_is_named_by_its_name(visitor):
    visitor.events(visitor.submit(file=(io.BytesIO("Es regnete in Köln.".encode("cp1252")), "wetter.txt")))
    assert visitor.api(f"sessions/{visitor.session_id}").json["metadata"]["title"] == "wetter"
    assert visitor.messages()[0]["content"] == "Es regnete in Köln."


def test_a_request_that_is_repeated_starts_nothing_twice(visitor):
    first, second = visitor.submit(bundled="gettysburg-address"), visitor.submit(bundled="gettysburg-address")
    assert second.status_code == 202
    assert second.json == first.json


@pytest.mark.parametrize(
    ("form", "status", "message"),
    [
        ({}, 422, "no text"),
        ({"text": " \n "}, 422, "no text"),
        ({"bundled": "no-such-text"}, 422, "no text"),
        ({"text": "x" * 2_000_001}, 413, "too long"),
        ({"text": "x" * 6_000_000}, 413, "too long"),
        ({"file": (io.BytesIO(b"\0\1\2"), "picture.txt")}, 422, "not a text file"),
    ],
    ids=["nothing", "white space", "an unknown name", "too long", "much too long", "binary"],
)
def test_a_text_that_cannot_be_read_is_refused_in_plain_words(visitor, form, status, message):
    refused = visitor.submit(**form)
    assert refused.status_code == status
    assert message in refused.json["error"]


BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def test_a_form_sent_before_the_script_was_there_leads_to_the_page(visitor):
    answer = visitor.http.post(f"{visitor.page}/text", data={"bundled": "gettysburg-address"}, headers=BROWSER)
    assert answer.status_code == 303
    assert answer.location == visitor.page


def test_a_form_sent_before_the_script_was_there_is_refused_on_the_page(visitor):
    answer = visitor.http.post(f"{visitor.page}/text", data={"text": ""}, headers=BROWSER)
    assert answer.status_code == 422
    assert "There is no text in it." in answer.text
    assert "<textarea" in answer.text


def test_a_stopped_reading_can_be_read_again(visitor, pace):
    pace.hold_after(words=2)
    started = visitor.submit(bundled="gettysburg-address")
    visitor.events(started, until="token")
    assert visitor.stop().status_code == 202
    assert visitor.events(started)[-1]["data"]["state"] == "cancelled"
    assert visitor.messages() == []

    pace.go_on()
    again = visitor.http.post(f"{visitor.page}/again")
    assert again.status_code == 202
    assert told(visitor.events(again)) == summary_of("gettysburg-address")


# Asking


def test_a_question_is_answered_with_its_sources(visitor):
    visitor.events(visitor.submit(bundled="constitution"))
    events = visitor.events(visitor.ask("What is treason?"))
    assert events[0]["type"] == "question"
    assert "levying War" in told(events)
    question, answer = visitor.messages()[1:]
    assert (question["role"], question["content"]) == ("user", "What is treason?")
    assert answer["content"] == told(events)
    assert "Article III, Section 3" in [source["heading"] for source in answer["sources"]]


def test_a_follow_up_is_understood_by_the_turns_before(visitor):
    visitor.events(visitor.submit(bundled="constitution"))
    visitor.events(visitor.ask("How old must the President be?"))
    assert "No Person shall be a Senator" in told(visitor.events(visitor.ask("And a Senator?")))
    question = visitor.messages()[-2]
    assert question["content"] == "And a Senator?"
    assert question["resolvedQuestion"] == "How old must the President be? And a Senator?"


def test_a_question_while_something_runs_is_refused(visitor, pace):
    pace.hold_after(words=2)
    started = visitor.submit(bundled="gettysburg-address")
    visitor.events(started, until="token")
    refused = visitor.ask("What will the world remember?")
    assert refused.status_code == 409
    assert refused.json["error"]
    visitor.stop()
    visitor.events(started)


@pytest.mark.parametrize(("question", "status"), [("", 422), ("  ", 422), ("why " * 300, 413)])
def test_a_question_has_some_length_but_not_any(visitor, question, status):
    visitor.events(visitor.submit(bundled="gettysburg-address"))
    assert visitor.ask(question).status_code == status


def test_metadata_that_a_client_changed_reaches_no_other_file(visitor):
    visitor.events(visitor.submit(bundled="gettysburg-address"))
    visitor.http.patch(f"/api/v1/sessions/{visitor.session_id}", json={"metadata": {"documentId": "../secret_key"}})
    end = visitor.events(visitor.ask("What is the key?"))[-1]
    assert end["data"]["state"] == "error"
    assert end["data"]["errorMessage"] == "The text of this conversation is no longer here. Start a new one."


# Visitors


def test_each_browser_sees_only_its_own_conversations(make_app, visit):
    app = make_app()
    owner, other = visit(app), visit(app)
    owner.events(owner.submit(bundled="gettysburg-address"))
    assert [session["conversationId"] for session in owner.api("sessions").json] == [owner.conversation_id]
    assert other.api("sessions").json == []


def test_nobody_can_read_ask_or_take_over_another_browsers_conversation(make_app, visit):
    app = make_app()
    owner, other = visit(app), visit(app)
    owner.events(owner.submit(bundled="gettysburg-address"))
    session_id = owner.session_id
    other.page, other.conversation_id = owner.page, owner.conversation_id
    assert other.conversation("active-session").status_code == 404
    assert other.api(f"sessions/{session_id}/messages").status_code == 404
    assert other.ask("What will the world remember?").status_code == 404
    assert other.http.post(f"{other.page}/again").status_code == 404
    assert other.submit(text="Something else.").status_code in (404, 409)
    assert owner.messages()[0]["content"] == summary_of("gettysburg-address")


def test_a_caller_without_a_cookie_is_nobody(make_app):
    assert make_app().test_client().get("/api/v1/sessions").status_code == 401


def test_a_question_about_nothing_is_not_found(visitor):
    assert visitor.ask("Who?").status_code == 404


# Pages

CONVERSATION = "019953dd-6de7-7f7a-bf64-96c54db89201"
PAGES = ["/", f"/c/{CONVERSATION}", "/assistant", f"/assistant/{CONVERSATION}"]


@pytest.mark.parametrize("path", [*PAGES, "/docs/openapi.json"])
def test_every_answer_carries_a_strict_policy(visitor, path):
    policy = visitor.http.get(path).headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", PAGES)
def test_a_page_holds_no_inline_script_style_or_handler(visitor, path):
    page = visitor.http.get(path).text
    assert page.count("<script") == page.count('<script type="module" src=')
    assert "<style" not in page
    assert " style=" not in page
    assert re.search(r"\son\w+=", page) is None


def test_the_api_is_described(visitor):
    paths = visitor.http.get("/docs/openapi.json").json["paths"]
    assert any(path.endswith("/active-session") for path in paths)


def test_a_host_that_keeps_no_key_makes_one_that_all_its_processes_share(make_app):
    assert make_app().config["SECRET_KEY"] == make_app().config["SECRET_KEY"]


# Several processes


def test_what_one_process_reads_another_one_tells_and_answers(make_app, visit, redis_url):
    uri = redis_url("newest")
    one, other = make_app(SESSIONSTATUS_STORAGE_URI=uri), make_app(SESSIONSTATUS_STORAGE_URI=uri)
    visitor = visit(one)
    started = visitor.submit(bundled="constitution")
    cookie = visitor.http.get_cookie("session").value
    visitor.http = other.test_client()
    visitor.http.set_cookie("session", cookie)
    assert told(visitor.events(started)) == summary_of("constitution")
    assert "levying War" in told(visitor.events(visitor.ask("What is treason?")))
