"""The templates of other programs' keys, and what their entries, statuses and times mean."""

from __future__ import annotations

import json
from typing import Any

import pytest
from existing import KEYS
from hypothesis import given
from hypothesis import strategies as st

from flask_sessionstatus import ConfigurationError
from flask_sessionstatus.config import Settings
from flask_sessionstatus.models import Cursor, TaskState, check_id
from flask_sessionstatus.stores import ExistingKeys
from flask_sessionstatus.stores.base import Counting
from flask_sessionstatus.stores.existing_keys.entries import (
    Decoder,
    Entry,
    Troubles,
    end_json,
    ending_of,
    state_of,
    time_of,
    word_of,
)
from flask_sessionstatus.stores.existing_keys.templates import Place, Template

STREAM = KEYS["stream"]
BOTH = "{conversation_id}:{session_id}"
KEY = "SESSIONSTATUS_EXISTING_KEYS"


# The setting


def test_a_mapping_and_its_json_are_the_same() -> None:
    as_mapping = Settings.from_mapping({KEY: KEYS}).existing_keys
    as_text = Settings.from_mapping({KEY: json.dumps(KEYS)}).existing_keys
    assert as_mapping == as_text
    assert as_mapping is not None
    assert as_mapping.watched == ["chat:stream:", "task:status:"]
    only: Any = Settings.from_mapping({KEY: {"stream": STREAM, "status": None}}).existing_keys
    assert (only.status, only.cancel) == (None, None)
    assert Settings.from_mapping({KEY: None}).existing_keys is None


BAD: list[tuple[object, str]] = [
    ("", "is empty: leave it out for none."),
    (" ", "is empty: leave it out for none."),
    ("chat:stream", f'must be JSON, an object of templates, such as {{"stream": "{STREAM}"}}.'),
    ("[]", "mapping"),
    (7, "mapping"),
    ({}, "'stream'"),
    ({"status": STREAM}, "'stream'"),
    ({"stream": STREAM, "steam": "x"}, "'steam'"),
    ({"stream": 7}, "'stream'"),
    ({"stream": ""}, "'stream'"),
    ({"stream": "chat"}, "has a wrong 'stream', 'chat': it must hold {conversation_id} and {session_id}, once each"),
    ({"stream": "chat:{{conversation_id}}:{session_id}"}, "stand for braces themselves; write {conversation_id})."),
    (
        {"stream": "chat:{{conversation_id}}:{{session_id}}"},
        "in braces ({{ and }} stand for braces themselves; write {conversation_id} and {session_id}).",
    ),
    (
        {"stream": "chat:{conversationId}:{session_id}"},
        "nothing else in braces; they are called conversation_id and session_id here.",
    ),
    ({"stream": "chat:{conversation_id}"}, "'stream'"),
    ({"stream": "chat:{session_id}"}, "'stream'"),
    ({"stream": "chat:{conversation_id}:{session_id}:{session_id}"}, "'stream'"),
    ({"stream": "chat:{conversation_id}:{session_id}:{user}"}, "nothing else in braces."),
    ({"stream": "chat:{conversation_id}:{}"}, "'stream'"),
    ({"stream": "chat:{conversation_id!r}:{session_id}"}, "'stream'"),
    ({"stream": "chat:{conversation_id:>9}:{session_id}"}, "'stream'"),
    ({"stream": "chat:{conversation_id}{session_id}"}, "between"),
    ({"stream": BOTH}, "begin with a text"),
    ({"stream": "chat:{conversation_id:{session_id}"}, "'stream'"),
    ({"stream": "chat:}{conversation_id}:{session_id}"}, "'stream'"),
    ({"stream": "a\nb:" + BOTH}, "'stream'"),
    ({"stream": STREAM, "status": "task"}, "'status'"),
    ({"stream": STREAM, "cancel": "{"}, "'cancel'"),
    (
        {"stream": STREAM, "status": STREAM},
        "told apart, as a key could be of both: give them different beginnings, neither",
    ),
    ({"stream": STREAM, "status": "chat:" + BOTH}, "told apart"),
    ({"stream": STREAM, "cancel": f"{STREAM}:cancel"}, "told apart"),
    ({"stream": STREAM, "status": "s:" + BOTH, "cancel": "s:" + BOTH}, "told apart"),
    ({"stream": STREAM, "whole": "user"}, "'whole'"),
    ({"stream": "sessionstatus:" + BOTH}, "SESSIONSTATUS_KEY_PREFIX"),
    ({"stream": "sessionstatus:chat:" + BOTH}, "SESSIONSTATUS_KEY_PREFIX"),
    ({"stream": "s" + BOTH}, "SESSIONSTATUS_KEY_PREFIX"),
    ({"stream": STREAM, "cancel": "session" + BOTH}, "SESSIONSTATUS_KEY_PREFIX"),
]


@pytest.mark.parametrize(("value", "said"), BAD, ids=lambda value: ascii(value)[:60])
def test_a_wrong_template_stops_the_start_and_says_what_is_wrong(value: object, said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Settings.from_mapping({KEY: value})
    assert str(refused.value).startswith(KEY)
    assert said in str(refused.value)
    assert str(refused.value).endswith(".")
    assert ", not " not in str(refused.value)


def test_only_the_template_at_fault_is_shown() -> None:
    with pytest.raises(ConfigurationError) as refused:
        Settings.from_mapping({KEY: {**KEYS, "status": "task:{session_id}"}})
    assert "has a wrong 'status', 'task:{session_id}': it must hold" in str(refused.value)
    assert STREAM not in str(refused.value)


def test_what_is_advised_can_be_told_apart() -> None:
    for status in ("task:" + BOTH, f"{STREAM}:status"):
        keys = {"stream": f"{STREAM}:stream", "status": status}
        assert Settings.from_mapping({KEY: keys}).existing_keys is not None


def test_our_own_prefix_is_the_one_that_is_set() -> None:
    theirs = {"stream": "sessionstatus:" + BOTH}
    assert Settings.from_mapping({KEY: theirs, "SESSIONSTATUS_KEY_PREFIX": "ours:"}).existing_keys is not None
    with pytest.raises(ConfigurationError, match="'stream'"):
        Settings.from_mapping({KEY: {"stream": STREAM}, "SESSIONSTATUS_KEY_PREFIX": "chat:"})


def test_names_that_end_differently_can_be_told_apart() -> None:
    keys = {name: f"chat:{BOTH}:{name}" for name in KEYS}
    settings: Any = Settings.from_mapping({KEY: keys}).existing_keys
    assert settings.watched == ["chat:"]
    assert settings.status.key(Place("c", "s")) == "chat:c:s:status"
    assert settings.stream.glob == "chat:*:stream"


# Names


def test_a_template_may_have_braces_of_its_own_and_either_order() -> None:
    template = Template.parse("chat:{{{session_id}}}@{conversation_id}.")
    assert template.key(Place("c1", "s1")) == "chat:{s1}@c1."
    assert template.places(b"chat:{s1}@c1.") == [Place("c1", "s1")]
    assert template.places(b"chat:{s1}@c1") == []
    assert Template.parse("a*?[b]\\" + BOTH).glob == "a\\*\\?\\[b\\]\\\\*"


IDS = st.text(st.sampled_from("ab:*?[]{}\\é "), min_size=1, max_size=8).filter(str.isprintable)


@given(IDS, IDS)
def test_each_key_leads_back_to_its_ids(conversation_id: str, session_id: str) -> None:
    keys = ExistingKeys.parse(KEYS)
    place = Place(check_id(conversation_id, "c"), check_id(session_id, "s"))
    possible = keys.stream.places(keys.stream.key(place).encode())
    assert place in possible
    assert len(set(possible)) == len(possible)
    assert all(keys.stream.key(each) == keys.stream.key(place) for each in possible)
    said = {"conversation_id": conversation_id, "run_id": session_id}
    assert keys.place(possible, [said]) == place
    assert keys.place(possible, [{}, said]) == place
    assert keys.place(possible, [{"conversation_id": conversation_id}]) == place
    assert keys.place(possible, [{"session_id": session_id}]) == place
    assert keys.place(possible, []) == (place if len(possible) == 1 else None)


@pytest.mark.parametrize(
    "key", [b"", b"chat:stream:", b"chat:stream:a", b"chat:stream::a", b"chat:stream:a:", b"other:a:b", b"\xff"]
)
def test_a_key_of_another_form_is_nobodys(key: bytes) -> None:
    assert Template.parse(STREAM).places(key) == []


@pytest.mark.parametrize("name", [b"a/b:c", b"a:b/c", b"..:c", b"a\n:c", b"\xff:c", b"a" * 257 + b":c", b"a:" * 5000])
def test_what_cannot_be_an_id_here_is_no_session(name: bytes) -> None:
    assert Template.parse(STREAM).places(b"chat:stream:" + name) == []


def test_entries_that_fit_no_reading_are_nobodys() -> None:
    keys = ExistingKeys.parse({**KEYS, "whole": "conversation_id"})
    possible = keys.stream.places(b"chat:stream:a:b:c")
    assert keys.place(possible, [{"conversation_id": "x"}]) is None
    assert keys.place(possible, [{"conversation_id": "a", "run_id": "c"}]) is None
    assert keys.place(possible, [{"content": "x"}]) == ("a", "b:c")
    assert keys.place([], []) is None


# Entries, statuses, times


def entry(**fields: str) -> Entry:
    return Entry(Cursor(1, 0), fields)


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (None, None),
        (b"running", "running"),
        ("running", "running"),
        (b' "running" ', "running"),
        (b'{"status": "error", "message": "x"}', "error"),
        (b'{"state": "error"}', '{"state": "error"}'),
        (b"{", "{"),
        (b'{"status": 7}', '{"status": 7}'),
    ],
)
def test_the_word_of_a_status(raw: bytes | None, word: str | None) -> None:
    assert word_of(raw) == word


def test_the_words_of_statuses() -> None:
    assert {state_of(word) for word in ("queued", "pending", "PENDING")} == {TaskState.PENDING}
    assert {state_of(word) for word in ("running", "STARTED", " running ")} == {TaskState.RUNNING}
    assert {state_of(word) for word in ("completed", "SUCCESS")} == {TaskState.COMPLETED}
    assert {state_of(word) for word in ("error", "FAILURE", "failed")} == {TaskState.ERROR}
    assert {state_of(word) for word in ("cancelled", "canceled", "REVOKED")} == {TaskState.CANCELLED}
    assert {state_of(word) for word in (None, "", "None", "dancing")} == {None}


@pytest.mark.parametrize(
    ("fields", "ending"),
    [
        ({"status": "completed", "message": "None"}, (TaskState.COMPLETED, None, None)),
        ({"status": "error", "message": "Out of tokens."}, (TaskState.ERROR, None, "Out of tokens.")),
        ({"status": "cancelled"}, (TaskState.CANCELLED, None, None)),
        ({}, (TaskState.COMPLETED, None, None)),
        ({"status": "timeout"}, (TaskState.ERROR, "timeout", None)),
        ({"status": "running"}, (TaskState.ERROR, "running", None)),
    ],
)
def test_how_an_end_ends(fields: dict[str, str], ending: tuple[TaskState, str | None, str | None]) -> None:
    assert ending_of(entry(type="end", **fields)) == ending
    data = json.loads(end_json(entry(type="end", **fields), "r1"))
    assert "message" not in data
    assert data["state"] == ending[0]


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1704123456789", 1_704_123_456_789),
        ("1704123456.789", 1_704_123_456_789),
        ("1704123456", 1_704_123_456_000),
        ("2024-01-01T15:37:36.789+00:00", 1_704_123_456_789),
        ("2024-01-01T15:37:36.789Z", 1_704_123_456_789),
        ("2024-01-01T16:37:36.789+01:00", 1_704_123_456_789),
        ("2024-01-01 15:37:36", 1_704_123_456_000),
        *((text, None) for text in ("", "None", "yesterday", "nan", "inf", "-5", "0")),
    ],
)
def test_times_as_programs_write_them(text: str, ms: int | None) -> None:
    assert time_of(text) == ms


FIELDS = st.dictionaries(
    st.one_of(st.sampled_from(["type", "content", "citations_json", "_json", "message", "a_json", "a"]), st.text()),
    st.one_of(st.sampled_from(["None", "null", "[]", "{", "end", "1e999", "NaN", '"\\ud800"']), st.text()),
)


@given(FIELDS)
def test_whatever_an_entry_holds_becomes_one_event(fields: dict[str, str]) -> None:
    raw = [part.encode(errors="surrogatepass") for pair in fields.items() for part in pair]
    type, data = Decoder(Troubles(Counting())).event(Entry.read([b"1-0", raw]), Place("c1", "r1"))
    read = json.loads(data)
    assert data.encode()
    assert "\n" not in data
    assert type == "end" or len(read) == len(fields)
    assert type.isascii()
    assert type.isprintable()
