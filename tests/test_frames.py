from __future__ import annotations

import json
from dataclasses import replace

import pytest
from harness import START

from flask_sessionstatus.models import Cursor, Event, Progress, Task, TaskState
from flask_sessionstatus.streaming.frames import JSON_FRAMES, WIRES, end_data

SSE, AI_SDK = WIRES["sse"], WIRES["ai-sdk"]
EVENT = Event(Cursor(5, 2), "token", '{"text":"a\\n ключ"}')
TASK = Task(
    *("t1", "s1", "c1", None, "generation", TaskState.RUNNING),
    **{"attempt": 2, "epoch": 5, "tail": 2, "created_at": START, "updated_at": START},  # type: ignore[arg-type]
    progress=Progress(1, 4.5, "bezig"),
    estimated_completion=START + 5,
)


def test_a_stream_opens_with_retry_and_no_blank_line() -> None:
    assert SSE.opening() == AI_SDK.opening() == b"retry: 1000\n"


def test_a_ping_is_a_comment_without_a_blank_line() -> None:
    assert SSE.ping() == AI_SDK.ping() == b": ping\n"


def test_an_event_has_id_event_and_data() -> None:
    assert SSE.event(EVENT) == 'id: 5-2\nevent: token\ndata: {"text":"a\\n ключ"}\n\n'.encode()


def test_a_status_has_no_id() -> None:
    assert SSE.status(TASK) == (
        b'event: status\ndata: {"state":"running","attempt":2,"current":1,"total":4.5,"note":"bezig",'
        b'"estimatedCompletion":1704123456794}\n\n'
    )


def test_a_gap_has_no_id() -> None:
    expected = b'event: gap\ndata: {"requested":"0-0","firstAvailable":"5-3"}\n\n'
    assert SSE.gap(Cursor(), Cursor(5, 3)) == expected


def test_an_end_has_an_id() -> None:
    data = end_data("t1", TaskState.ERROR, "ValueError", "bad")
    assert json.loads(data) == {"state": "error", "errorType": "ValueError", "errorMessage": "bad", "taskId": "t1"}
    assert SSE.end(Cursor(5, 9), data) == f"id: 5-9\nevent: end\ndata: {data}\n\n".encode()


def test_the_ai_sdks_frames_are_bare_data() -> None:
    assert AI_SDK.event(EVENT) == 'id: 5-2\ndata: {"text":"a\\n ключ"}\n\n'.encode()
    assert AI_SDK.status(TASK) == b""
    assert AI_SDK.headers == {"x-vercel-ai-ui-message-stream": "v1"}
    part = json.loads(AI_SDK.gap(Cursor(), Cursor(5, 3)).removeprefix(b"data: "))
    assert (part["type"], part["transient"]) == ("data-gap", True)


def test_the_ai_sdks_end_is_done() -> None:
    assert AI_SDK.end(Cursor(5, 9), end_data("t1", TaskState.COMPLETED)) == b"id: 5-9\ndata: [DONE]\n\n"
    failed = AI_SDK.end(Cursor(5, 9), end_data("t1", TaskState.ERROR, "E", "bad"))
    assert failed == b'data: {"type":"error","errorText":"bad"}\n\nid: 5-9\ndata: [DONE]\n\n'


@pytest.mark.parametrize("state", list(TaskState))
def test_no_control_frame_holds_a_key_message_or_a_bare_null(state: TaskState) -> None:
    empty = replace(TASK, state=state, progress=Progress(), estimated_completion=None)
    for frame in (SSE.status(empty), SSE.gap(Cursor(), Cursor()), SSE.end(Cursor(), end_data("t1", state))):
        data = json.loads(frame.partition(b"data: ")[2])
        assert data
        assert "message" not in data


def test_a_cancelled_task_is_an_abort_to_the_ai_sdk() -> None:
    frame = WIRES["ai-sdk"].end(Cursor(1, 2), end_data("t1", TaskState.CANCELLED))
    assert frame == b'data: {"type":"abort"}\n\nid: 1-2\ndata: [DONE]\n\n'


def test_an_attempt_is_a_transient_part_to_the_ai_sdk() -> None:
    frame = WIRES["ai-sdk"].event(Event(Cursor(1, 1), "attempt", '{"attempt":2}'))
    assert frame == b'id: 1-1\ndata: {"type":"data-attempt","data":{"attempt":2},"transient":true}\n\n'


def test_a_stream_closed_before_its_end_is_an_error_to_the_ai_sdk_and_a_retry_to_an_event_source() -> None:
    assert WIRES["sse"].closing() == WIRES["sse"].opening()
    assert WIRES["ai-sdk"].closing().startswith(b'data: {"type":"error","errorText":')


def test_a_json_frame_is_a_line_with_cursor_type_and_data() -> None:
    assert JSON_FRAMES.event(EVENT) == '{"cursor":"5-2","type":"token","data":{"text":"a\\n ключ"}}\n'.encode()
    end = end_data("t1", TaskState.COMPLETED)
    assert JSON_FRAMES.end(Cursor(5, 9), end) == f'{{"cursor":"5-9","type":"end","data":{end}}}\n'.encode()


def test_json_frames_that_are_no_event_of_the_log_have_no_cursor() -> None:
    status, gap = json.loads(JSON_FRAMES.status(TASK)), json.loads(JSON_FRAMES.gap(Cursor(), Cursor(5, 3)))
    assert status["cursor"] is gap["cursor"] is None
    assert (status["type"], status["data"]) == ("status", json.loads(SSE.status(TASK).partition(b"data: ")[2]))
    assert (gap["type"], gap["data"]) == ("gap", {"requested": "0-0", "firstAvailable": "5-3"})
    assert JSON_FRAMES.opening() == JSON_FRAMES.ping() == JSON_FRAMES.closing() == b""
