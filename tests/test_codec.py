from __future__ import annotations

import json
from typing import Any

import pytest
from harness import START

from flask_sessionstatus.errors import RecordUnreadable
from flask_sessionstatus.models import SessionState, TaskState, Turn
from flask_sessionstatus.stores.codec import (
    TaskRecord,
    bound,
    decode_fields,
    decode_task,
    decode_turn,
    encode_turn,
    state_at,
    status_of,
    task_at,
)

RECORD: TaskRecord = {
    **{"v": 1, "session": "s1", "type": "generation", "wire": "sse", "token": "k", "state": "running"},  # type: ignore[typeddict-item]
    **{"attempt": 1, "epoch": START, "tail": 3, "created": START, "updated": START, "activity": START},
    "deadline": START + 30_000,
}


def record(**fields: Any) -> TaskRecord:
    return {**RECORD, **fields}  # type: ignore[typeddict-item]


def test_a_turn_reads_as_it_was_written() -> None:
    turn = Turn("user", "ключ", sources=[1], resolved_question="r", template_id="t", slots={"a": None}, results={})
    assert decode_turn(encode_turn(turn).encode(), "id", 4, START) == Turn(
        **{**turn.__dict__, "turn_id": "id", "position": 4, "timestamp": START}
    )


@pytest.mark.parametrize("text", [b"", b"x", b"[]", b"null", b'{"v":1}', b'{"v":2,"role":"a","content":"b"}', b"\xff"])
def test_what_is_no_turn_is_unreadable(text: bytes) -> None:
    with pytest.raises(RecordUnreadable):
        decode_turn(text, "id", 0, START)


def test_missing_optional_fields_are_tolerated() -> None:
    task = task_at(record(), "t1", "c1", None, START)
    assert (task.started_at, task.progress.current, task.error_type, task.result_available) == (None, None, None, False)


def test_unknown_fields_of_a_later_version_are_tolerated() -> None:
    assert decode_task(json.dumps({**RECORD, "later": 1}).encode(), "t1")["tail"] == 3


@pytest.mark.parametrize(
    ("fields", "after", "grace", "state"),
    [
        ({}, 29_999, 0, TaskState.RUNNING),
        ({}, 30_000, 0, TaskState.LOST),
        ({}, 30_000, 1, TaskState.RUNNING),
        ({"state": "pending"}, 30_000, 0, TaskState.LOST),
        ({"cancel": START}, 29_999, 0, TaskState.RUNNING),
        ({"cancel": START}, 30_000, 0, TaskState.CANCELLED),
        ({"state": "completed"}, 99_999, 0, TaskState.COMPLETED),
    ],
)
def test_a_state_is_computed_from_the_deadline(fields: Any, after: int, grace: int, state: TaskState) -> None:
    assert state_at(record(**fields), START + after, grace) is state


@pytest.mark.parametrize(
    ("fields", "after", "bounded", "deadline"),
    [
        ({"renewed": START}, 0, False, 30_000),
        ({"renewed": START}, 30_000, False, 30_000),
        ({"renewed": START}, -1, True, 29_999),
        ({"renewed": START}, -3_600_000, True, -3_570_000),
        ({"renewed": START - 60_000}, -60_000, False, 30_000),
        ({"renewed": START, "state": "completed"}, -3_600_000, False, 30_000),
        ({}, -3_600_000, False, 30_000),
    ],
)
def test_a_deadline_lies_at_most_its_lease_away(fields: Any, after: int, bounded: bool, deadline: int) -> None:
    task = record(**fields)
    assert bound(task, START + after) is bounded
    assert task["deadline"] == START + deadline
    assert not bound(task, START + after)


def test_the_sessions_word_follows_from_its_tasks() -> None:
    assert status_of(1, TaskState.COMPLETED) is SessionState.ACTIVE
    assert status_of(0, TaskState.COMPLETED) is SessionState.COMPLETED
    for state in (None, TaskState.ERROR, TaskState.CANCELLED, TaskState.LOST):
        assert status_of(0, state) is SessionState.IDLE


def test_what_cannot_be_read_stands_in_its_place() -> None:
    good = json.dumps(RECORD).encode()
    fields = [b"task:a", good, b"task:b", b"garbage", b"lastEpoch", b"5", b"session:c", b"{}", b"task:d", good]
    found = dict(decode_fields(fields))
    assert found["task:a"] == found["task:d"] == RECORD
    assert isinstance(found["task:b"], RecordUnreadable)
    assert isinstance(found["session:c"], RecordUnreadable)
    assert "lastEpoch" not in found
    assert dict(decode_fields([])) == {}


def test_two_records_in_one_field_are_none() -> None:
    good = json.dumps(RECORD).encode()
    found = dict(decode_fields([b"task:a", good + b"," + good, b"task:b", good]))
    assert isinstance(found["task:a"], RecordUnreadable)
    assert found["task:b"] == RECORD
