"""`sessionstatus.sessions`: what the routes do, for the host's own code."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from harness import Clock, at_once
from hosts import Host

from flask_sessionstatus import InvalidValue, NotFound, Session, SessionConflict, SessionState, Turn
from flask_sessionstatus.sessions import Sessions
from flask_sessionstatus.stores import Limits

TTL = Limits().session_ttl


@pytest.fixture
def sessions(host: Host) -> Iterator[Sessions]:
    with host.app.app_context():
        yield host.extension.sessions


@pytest.fixture
def session_id(sessions: Sessions) -> str:
    return sessions.create("c1", namespace_id="u1").session_id


def test_a_created_session_is_stored_at_once_with_what_it_was_given(sessions: Sessions) -> None:
    made = sessions.create(
        "c1", namespace_id="u1", metadata={"naam": "é"}, language="fr", device_type="phone", client_version="1.2"
    )
    found = sessions.get(made.session_id)
    assert found == made
    assert (made.conversation_id, made.namespace_id, made.language) == ("c1", "u1", "fr")
    assert (made.metadata, made.device_type, made.client_version) == ({"naam": "é"}, "phone", "1.2")
    assert (made.status, made.message_count, made.current_slots) == (SessionState.IDLE, 0, {})


def test_a_session_of_nothing_has_a_conversation_of_its_own_and_the_default_language(sessions: Sessions) -> None:
    made = sessions.create(namespace_id="u1")
    assert made.language == "nl"
    assert made.conversation_id != made.session_id
    assert len(made.session_id) == len(made.conversation_id) == 36


def test_an_unknown_session_is_none(sessions: Sessions) -> None:
    assert sessions.get("nobody") is None


def test_of_those_who_get_or_create_at_once_all_get_one(host: Host, sessions: Sessions) -> None:
    def ask() -> Session:
        with host.app.app_context():
            return sessions.get_or_create("s1", "c1", namespace_id="u1")

    found = at_once(*[ask] * 8)
    assert {(each.session_id, each.created_at) for each in found} == {("s1", found[0].created_at)}
    assert host.store.totals().sessions_created == 1


def test_get_or_create_never_hands_out_somebody_elses_session(sessions: Sessions) -> None:
    sessions.create("c1", "s1", namespace_id="u1")
    with pytest.raises(SessionConflict):
        sessions.create("c2", "s1", namespace_id="u1")
    with pytest.raises(SessionConflict):
        sessions.get_or_create("s1", "c1", namespace_id="u2")
    with pytest.raises(SessionConflict):
        sessions.get_or_create("s1", "c2", namespace_id="u1")


def test_metadata_is_merged_and_none_removes(sessions: Sessions, session_id: str) -> None:
    sessions.update(session_id, metadata={"a": 1, "b": {"c": [2]}})
    changed = sessions.update(session_id, metadata={"a": None, "d": "x"}, language="de")
    assert (changed.metadata, changed.language) == ({"b": {"c": [2]}, "d": "x"}, "de")
    assert sessions.get(session_id) == changed


def test_a_question_and_its_answer_are_one_step(sessions: Sessions, session_id: str) -> None:
    stored = sessions.add_turns(
        session_id,
        [
            Turn(
                "user", "How many?", template_id="count", slots={"town": "Almelo"}, resolved_question="How many live?"
            ),
            Turn("assistant", "74,000", sources=[{"text": 1}], results=[74_000], slots={"ignored": True}),
        ],
    )
    assert [(turn.position, turn.role) for turn in stored] == [(0, "user"), (1, "assistant")]
    assert sessions.turns(session_id) == stored
    found = sessions.get(session_id)
    assert found is not None
    assert (found.message_count, found.current_template_id, found.current_slots) == (2, "count", {"town": "Almelo"})


def test_the_users_slots_merge_and_none_clears_one(sessions: Sessions, session_id: str) -> None:
    sessions.add_turn(session_id, "user", "a", slots={"town": "Almelo", "year": 2020})
    sessions.add_turn(session_id, "user", "b", slots={"town": "Enschede"})
    assert sessions.slots(session_id) == {"town": "Enschede", "year": 2020}
    sessions.add_turn(session_id, "user", "c", slots={"town": None, "year": None})
    assert sessions.slots(session_id) == {}


def test_the_history_is_the_last_six_with_the_resolved_questions(sessions: Sessions, session_id: str) -> None:
    for number in range(4):
        sessions.add_turn(session_id, "user", f"and {number}?", resolved_question=f"What about {number}?")
        sessions.add_turn(session_id, "assistant", f"{number}.")
    history = sessions.history(session_id)
    assert history == [
        message
        for number in (1, 2, 3)
        for message in (
            {"role": "user", "content": f"What about {number}?"},
            {"role": "assistant", "content": f"{number}."},
        )
    ]
    assert sessions.history(session_id, limit=1) == [{"role": "assistant", "content": "3."}]
    assert len(sessions.history(session_id, limit=100)) == 8


def test_the_previous_user_turn_is_found_however_long_ago(sessions: Sessions, session_id: str) -> None:
    assert sessions.previous_user_turn(session_id) is None
    sessions.add_turn(session_id, "user", "first")
    sessions.add_turn(session_id, "user", "second")
    sessions.add_turns(session_id, [Turn("assistant", str(number)) for number in range(50)])
    turn = sessions.previous_user_turn(session_id)
    assert turn is not None
    assert (turn.content, turn.position) == ("second", 1)


def test_turns_are_not_capped_in_python(sessions: Sessions, session_id: str) -> None:
    for first in (0, 250):
        sessions.add_turns(session_id, [Turn("user", str(number)) for number in range(first, first + 250)])
    for _ in range(2):
        sessions.add_turn(session_id, "user", "more")
    assert [turn.position for turn in sessions.turns(session_id)] == list(range(502))
    assert [turn.position for turn in sessions.turns(session_id, limit=300)] == list(range(202, 502))
    with pytest.raises(InvalidValue):
        sessions.add_turns(session_id, [Turn("user", str(number)) for number in range(257)])
    assert len(sessions.turns(session_id)) == 502
    assert [turn.content for turn in sessions.turns(session_id, limit=2, before=10)] == ["8", "9"]


def test_a_turn_of_no_known_role_is_refused_and_nothing_is_stored(sessions: Sessions, session_id: str) -> None:
    for turn in (Turn("robot", "x"), Turn("user", 7), Turn("user", "x", slots={"a": float("nan")})):  # type: ignore[arg-type]
        with pytest.raises(InvalidValue):
            sessions.add_turns(session_id, [Turn("user", "fine"), turn])
    assert sessions.turns(session_id) == []


def test_a_listing_is_ones_own_page_by_page(sessions: Sessions, clock: Clock) -> None:
    made = []
    for number in range(5):
        made.append(sessions.create(f"c{number}", namespace_id="u1").session_id)
        clock.move(1)
    sessions.create("other", namespace_id="u2")
    page = sessions.list("u1", limit=3)
    rest = sessions.list("u1", limit=3, cursor=page.next)
    assert [each.session_id for each in (*page.sessions, *rest.sessions)] == made[::-1]
    assert rest.next is None


def test_a_listing_can_be_of_one_conversation_or_state(host: Host, sessions: Sessions) -> None:
    first, second = sessions.create("c1", namespace_id="u1"), sessions.create("c2", namespace_id="u1")
    host.begin(second.session_id, "c2")
    assert [each.session_id for each in sessions.list("u1", conversation_id="c1").sessions] == [first.session_id]
    assert [each.session_id for each in sessions.list("u1", status="active").sessions] == [second.session_id]
    assert sessions.list("u1", status="active", conversation_id="c1").sessions == []
    with pytest.raises(InvalidValue, match="active, idle, completed, not 'running'"):
        sessions.list("u1", status="running")


def test_what_is_deleted_is_gone_and_nothing_brings_it_back(sessions: Sessions, session_id: str) -> None:
    assert sessions.delete(session_id) is True
    assert sessions.delete(session_id) is False
    assert sessions.get(session_id) is None
    for late in (
        lambda: sessions.add_turn(session_id, "user", "late"),
        lambda: sessions.update(session_id, language="de"),
        lambda: sessions.create("c1", session_id, namespace_id="u1"),
        lambda: sessions.get_or_create(session_id, "c1", namespace_id="u1"),
        lambda: sessions.slots(session_id),
        lambda: sessions.history(session_id),
        lambda: sessions.previous_user_turn(session_id),
    ):
        with pytest.raises(NotFound):
            late()
    assert sessions.list("u1").sessions == []


def test_writes_keep_a_session_and_reads_do_not(sessions: Sessions, session_id: str, clock: Clock) -> None:
    clock.move(TTL - 5000)
    sessions.add_turn(session_id, "user", "x")
    clock.move(TTL - 5000)
    assert sessions.get(session_id) is not None
    sessions.turns(session_id)
    clock.move(5000)
    assert sessions.get(session_id) is None
    with pytest.raises(NotFound):
        sessions.turns(session_id)


def test_what_it_returns_is_frozen(sessions: Sessions, session_id: str) -> None:
    found = sessions.get(session_id)
    turn = sessions.add_turn(session_id, "user", "x", slots={"a": 1})
    assert found is not None
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.language = "de"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        turn.content = "y"  # type: ignore[misc]


def test_outside_of_a_request_the_owner_must_be_named(sessions: Sessions) -> None:
    with pytest.raises(InvalidValue, match="namespace_id"):
        sessions.create("c1")
    with pytest.raises(InvalidValue, match="namespace_id"):
        sessions.list()
