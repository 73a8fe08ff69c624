import re

import pytest
from example.conftest import Asker, told

from example_app.shelf import SILENT, ask

PEOPLE = "How many people live in Almelo?"


def of_type(events, type):
    return [event["data"] for event in events if event["type"] == type]


# Answering


def test_a_question_is_answered_by_a_sentence_of_a_text(asker):
    events = asker.converse(PEOPLE)
    assert told(events).startswith("About 73,000 people live in Almelo")
    (place,) = of_type(events, "sentence")
    assert place["heading"] == "Twenty-Two Dutch Towns · Almelo"
    assert events[-1]["data"]["state"] == "completed"


def test_the_stored_answer_is_what_the_stream_said(asker):
    events = asker.converse(PEOPLE)
    question, answer = asker.messages()
    assert (question["role"], question["content"]) == ("user", PEOPLE)
    assert (answer["role"], answer["content"]) == ("assistant", told(events))
    assert " ".join(source["text"] for source in answer["sources"]) == told(events)


def test_what_no_text_says_is_not_made_up(asker):
    assert told(asker.converse("How many people live in Timbuktu?")) == SILENT


# Following up


def test_an_elliptical_question_takes_what_it_leaves_out_from_the_session(asker):
    events = asker.converse(PEOPLE, "and in Enschede?")
    assert told(events).startswith("About 160,000 people live in Enschede")
    assert of_type(events, "understood") == [{"text": "How many people live in Enschede?"}]
    question = asker.messages()[-2]
    assert question["content"] == "and in Enschede?"
    assert question["resolvedQuestion"] == "How many people live in Enschede?"


def test_a_question_that_points_takes_the_topic_from_the_session(asker):
    events = asker.converse(PEOPLE, "and in Enschede?", "and which river flows there?")
    assert told(events) == "No river flows through Enschede, but the Twente Canal ends there."
    assert asker.messages()[-2]["resolvedQuestion"] == "Which river flows in Enschede?"


def test_the_session_remembers_topic_text_and_question(asker):
    asker.converse(PEOPLE, "and in Enschede?")
    session = asker.session()
    assert session["currentSlots"] == {"topic": "Enschede", "text": "dutch-towns"}
    assert session["currentTemplateId"] == "How many people live in {topic}?"


def test_a_question_that_needs_nothing_is_stored_as_it_was_asked(asker):
    events = asker.converse(PEOPLE)
    assert of_type(events, "understood") == []
    assert asker.messages()[0]["resolvedQuestion"] is None


def test_a_follow_up_is_looked_up_first_in_the_text_that_answered_before(asker):
    asker.converse("What does the Hatter say?", "and the King?")
    assert {source["heading"].split(" · ")[0] for source in asker.messages()[-1]["sources"]} == {
        "Alice’s Adventures in Wonderland"
    }


def test_a_follow_up_that_no_text_answers_is_said_to_be_so_and_the_conversation_goes_on(asker):
    assert told(asker.converse(PEOPLE, "and in Timbuktu?", "and in Zwolle?")).startswith("About 130,000 people")


# What is lacking


def test_a_question_without_a_topic_is_told_what_it_lacks_and_a_topic_completes_it(asker):
    events = asker.converse("which river flows there?")
    assert "nothing was named before" in told(events)
    assert of_type(events, "sentence") == []
    assert told(asker.events(asker.ask("Deventer"))).startswith("The river IJssel flows past Deventer")


def test_a_topic_without_a_question_is_asked_what_it_lacks_and_a_question_completes_it(asker):
    assert told(asker.converse("and in Enschede?")) == "What would you like to know about Enschede?"
    assert told(asker.events(asker.ask("how many people live there?"))).startswith("About 160,000 people")


def test_another_subject_clears_the_slots(asker):
    events = asker.converse(PEOPLE, "never mind, another subject")
    assert told(events) == "Another subject, then. What would you like to know?"
    assert asker.session()["currentSlots"] == {}
    assert "nothing was named before" in told(asker.events(asker.ask("which river flows there?")))


def test_a_template_goes_with_its_subject(asker):
    asker.converse(PEOPLE, "never mind")
    assert told(asker.events(asker.ask("Enschede?"))) == "What would you like to know about Enschede?"


def test_slots_that_a_client_wrote_do_no_harm(asker):
    asker.converse(PEOPLE)
    turn = {"role": "user", "content": "x", "slots": {"topic": ["?"], "text": {"name": 5}}, "templateId": "{topic} {0}"}
    assert asker.http.post(f"/api/v1/sessions/{asker.session_id}/messages", json=turn).status_code == 201
    assert told(asker.events(asker.ask("and in Enschede?"))) == SILENT
    assert told(asker.events(asker.ask("Who stole the tarts?"))) == " ".join(
        sentence.text for sentence in ask("Who stole the tarts?").sentences
    )


# One step


def test_question_and_answer_are_stored_as_one_step_when_all_is_said(asker, pace):
    pace.hold_after(words=2)
    started = asker.begin(PEOPLE)
    asker.events(started, until="token")
    assert asker.messages() == []
    pace.go_on()
    asker.events(started)
    question, answer = asker.messages()
    assert question["timestamp"] == answer["timestamp"]
    assert question["results"] == answer["results"] == {"taskId": started.json["taskId"]}


def test_a_stopped_answer_stays_as_far_as_it_came_and_can_be_followed_up(asker, pace):
    pace.hold_after(words=2)
    started = asker.begin(PEOPLE)
    asker.events(started, until="token")
    assert asker.stop().status_code == 202
    events = asker.events(started)
    assert events[-1]["data"]["state"] == "cancelled"
    question, answer = asker.messages()
    assert question["content"] == PEOPLE
    assert "About 73,000 people live in Almelo (inhabitants".startswith(answer["content"])
    assert [source["text"] for source in answer["sources"]] == [answer["content"]]

    pace.go_on()
    assert told(asker.events(asker.ask("and in Enschede?"))).startswith("About 160,000 people")


def test_a_conversation_that_is_deleted_while_it_answers_stays_deleted(asker, pace):
    pace.hold_after(words=2)
    started = asker.begin(PEOPLE)
    asker.events(started, until="token")
    session = f"/api/v1/sessions/{asker.session_id}"
    assert asker.http.delete(session).json["status"] == "closed"
    app = asker.http.application
    with app.app_context():
        app.extensions["sessionstatus"].shutdown(10)
    assert asker.http.get(f"{session}/messages").status_code == 404


def test_a_question_while_an_answer_is_given_is_refused(asker, pace):
    pace.hold_after(words=2)
    started = asker.begin(PEOPLE)
    asker.events(started, until="token")
    assert asker.ask("and in Enschede?").status_code == 409
    asker.stop()
    asker.events(started)


# Conversations


def test_the_first_question_names_the_conversation_until_it_is_renamed(asker):
    asker.converse(PEOPLE)
    assert asker.session()["metadata"] == {"title": PEOPLE}
    renamed = asker.http.patch(f"/api/v1/sessions/{asker.session_id}", json={"metadata": {"title": "Twente"}})
    assert renamed.json["metadata"] == {"title": "Twente"}
    asker.events(asker.ask("and in Enschede?"))
    assert asker.session()["metadata"] == {"title": "Twente"}


def test_a_first_question_that_is_sent_twice_is_asked_once(asker):
    first, second = asker.begin(PEOPLE), asker.begin(PEOPLE)
    assert second.json == first.json
    asker.events(first)
    assert len(asker.messages()) == 2


def test_conversations_of_both_kinds_are_listed_page_by_page(asker):
    for number in range(4):
        asker.events(asker.http.post(f"{asker.page[:-1]}{number}", data={"question": PEOPLE}))
    reading = asker.http.post(f"/c/{asker.conversation_id}/text", data={"bundled": "gettysburg-address"})
    asker.events(reading)
    first = asker.api("sessions?limit=3")
    following = re.fullmatch(r'<(/api/v1/[^>]+)>; rel="next"', first.headers["Link"])[1]
    second = asker.http.get(following)
    ids = [session["id"] for session in [*first.json, *second.json]]
    assert len(set(ids)) == 5
    assert ids[0] == reading.json["sessionId"]
    assert "Link" not in second.headers


def test_a_deleted_conversation_cannot_be_asked_any_more(asker):
    asker.converse(PEOPLE)
    asker.http.delete(f"/api/v1/sessions/{asker.session_id}")
    refused = asker.ask("and in Enschede?")
    assert refused.status_code == 404
    assert refused.json["error"]


def test_nobody_can_ask_in_another_browsers_conversation(make_app):
    app = make_app()
    owner, other = Asker(app), Asker(app)
    owner.converse(PEOPLE)
    session_id = owner.session_id
    other.page, other.conversation_id = owner.page, owner.conversation_id
    assert other.ask("and in Enschede?").status_code == 404
    assert other.begin(PEOPLE).status_code in (404, 409)
    assert other.api(f"sessions/{session_id}/messages").status_code == 404
    assert len(owner.messages()) == 2


# Forms


@pytest.mark.parametrize(("question", "status"), [("", 422), ("  ", 422), ("why " * 300, 413)])
def test_a_first_question_has_some_length_but_not_any(asker, question, status):
    refused = asker.begin(question)
    assert refused.status_code == status
    assert refused.json["error"]


BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def test_a_question_sent_before_the_script_was_there_leads_to_the_page(asker):
    answer = asker.http.post(asker.page, data={"question": ["", PEOPLE]}, headers=BROWSER)
    assert answer.status_code == 303
    assert answer.location == asker.page


def test_no_question_sent_before_the_script_was_there_is_refused_on_the_page(asker):
    answer = asker.http.post(asker.page, data={"question": ""}, headers=BROWSER)
    assert answer.status_code == 422
    assert "There is no question." in answer.text
    assert "Ask the shelf." in answer.text


# Several processes


def test_what_one_process_answered_another_one_follows_up(make_app, redis_url):
    uri = redis_url("newest")
    one, other = make_app(SESSIONSTATUS_STORAGE_URI=uri), make_app(SESSIONSTATUS_STORAGE_URI=uri)
    asker = Asker(one)
    asker.converse(PEOPLE)
    cookie = asker.http.get_cookie("session").value
    asker.http = other.test_client()
    asker.http.set_cookie("session", cookie)
    assert told(asker.events(asker.ask("and in Enschede?"))).startswith("About 160,000 people")
    assert asker.session()["currentSlots"]["topic"] == "Enschede"
