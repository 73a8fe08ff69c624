"""Streams: every event exactly once, an end, then 204."""

from __future__ import annotations

from typing import Any

import pytest
from harness import LEASE_MS, Job
from hosts import Host, MakeHost, events, frames
from werkzeug.test import TestResponse

from flask_sessionstatus.stores.base import Change, End
from flask_sessionstatus.streaming.shedding import PER_SECOND


def finished(host: Host, count: int = 3, **fields: Any) -> Job:
    job = host.begin(**fields)
    job.append([str(n) for n in range(count)])
    job.end()
    return job


def crowd_at(host: Host) -> None:
    """Let so many be shed that the next ones come back 20 s later."""
    for _ in range(20 * PER_SECOND):
        host.state.engine.hub.shedding.later()


def retry_of(response: TestResponse) -> int:
    """After how many ms a client that was shed is to come back."""
    assert response.status_code == 200
    return int(response.data.removeprefix(b"retry: "))


def texts(data: bytes) -> list[str]:
    return [frame["data"]["text"] for frame in frames(data) if frame.get("event") == "token"]


def test_a_stream_has_its_headers_and_frames(host: Host) -> None:
    job = finished(host, 1)
    response = host.get("/conversations/c1/resume/s1")
    assert response.status_code == 200
    assert response.mimetype == "text/event-stream"
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert response.data.startswith(b"retry: ")
    assert frames(response.data) == [
        {"id": f"{job.epoch}-1", "event": "token", "data": {"text": "0"}},
        {"id": f"{job.epoch}-2", "event": "end", "data": {"state": "completed"}},
    ]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_resume_goes_on_after_the_cursor(host: Host, method: str) -> None:
    job = finished(host)
    response = host.request(method, f"/conversations/c1/resume/s1?cursor={job.epoch}-1")
    assert [frame["id"] for frame in frames(response.data)] == [f"{job.epoch}-{n}" for n in (2, 3, 4)]


@pytest.mark.parametrize("path", ["/conversations/c1/resume/s1", "/sessions/s1/tasks/t1/events"])
def test_last_event_id_wins_over_the_cursor(host: Host, path: str) -> None:
    job = finished(host)
    headers = {"Last-Event-ID": f"{job.epoch}-2", "Accept": "text/event-stream"}
    response = host.get(f"{path}?cursor={job.epoch}-1", headers=headers)
    assert [frame["id"] for frame in frames(response.data)] == [f"{job.epoch}-{n}" for n in (3, 4)]


def test_every_cursor_resumes_to_the_same_text(host: Host) -> None:
    job = finished(host, 20)
    for n in range(21):
        response = host.get("/conversations/c1/resume/s1", headers={"Last-Event-ID": f"{job.epoch}-{n}"})
        assert texts(response.data) == [str(each) for each in range(n, 20)]


@pytest.mark.parametrize(
    "path", ["/conversations/c1/resume/s1", "/conversations/c1/stream", "/sessions/s1/tasks/t1/events"]
)
def test_the_ends_own_id_is_204(host: Host, path: str) -> None:
    job = finished(host)
    headers = {"Last-Event-ID": f"{job.epoch}-4", "Accept": "text/event-stream"}
    response = host.get(path, headers=headers)
    assert (response.status_code, response.data) == (204, b"")


def test_a_session_without_a_task_is_204(host: Host) -> None:
    host.session()
    assert host.get("/conversations/c1/resume/s1").status_code == 204


def test_an_unknown_session_is_404(host: Host) -> None:
    host.session("s1", "c1")
    host.session("s2", "c2")
    for path in ("/conversations/c1/resume/s9", "/conversations/c1/resume/s2", "/conversations/c9/resume/s1"):
        response = host.get(path)
        assert response.status_code == 404
        assert response.json is not None
        assert response.json["error"] == "Session not found"


def test_the_conversations_stream_is_204_without_an_active_task(host: Host) -> None:
    assert host.get("/conversations/c1/stream").status_code == 204
    host.session()
    assert host.get("/conversations/c1/stream").status_code == 204
    finished(host)
    assert host.get("/conversations/c1/stream").status_code == 204


def test_the_conversations_stream_gives_the_rest_of_an_ended_task_to_its_cursor(host: Host) -> None:
    job = finished(host)
    response = host.get("/conversations/c1/stream", headers={"Last-Event-ID": f"{job.epoch}-2"})
    assert [frame["id"] for frame in frames(response.data)] == [f"{job.epoch}-3", f"{job.epoch}-4"]


@pytest.mark.parametrize(
    "cursor", ["x", "1", "1-", "-1", "1-2-3", "1-02", " 1-2", "1.0-2", "٣-١", "1-2%0A", "9" * 17 + "-1"]
)
def test_a_cursor_that_is_none_is_422(host: Host, cursor: str) -> None:
    finished(host)
    for path in ("/conversations/c1/resume/s1", "/conversations/c1/stream", "/sessions/s1/tasks/t1/events"):
        response = host.get(f"{path}?cursor={cursor}")
        assert response.status_code == 422
        assert response.json is not None
        assert list(response.json["errors"]) == ["cursor"]


def test_a_cursor_past_the_end_of_an_ended_task_gets_a_gap_and_everything(host: Host) -> None:
    job = finished(host, 1)
    response = host.get(f"/conversations/c1/resume/s1?cursor={job.epoch}-9")
    assert events(response.data) == [
        {"event": "gap", "data": {"requested": f"{job.epoch}-9", "firstAvailable": f"{job.epoch}-1"}},
        {"id": f"{job.epoch}-1", "event": "token", "data": {"text": "0"}},
        {"id": f"{job.epoch}-2", "event": "end", "data": {"state": "completed"}},
    ]


@pytest.mark.parametrize("epoch", [1, 9_999_999_999_999])
def test_a_cursor_of_a_task_that_is_gone_gets_a_gap_and_everything(host: Host, epoch: int) -> None:
    job = finished(host, 1)
    response = host.get(f"/conversations/c1/resume/s1?cursor={epoch}-5")
    found = frames(response.data)
    assert found[0] == {"event": "gap", "data": {"requested": f"{epoch}-5", "firstAvailable": f"{job.epoch}-1"}}
    assert [frame["id"] for frame in found[1:]] == [f"{job.epoch}-1", f"{job.epoch}-2"]


def test_a_cursor_names_an_earlier_task_of_the_session(host: Host) -> None:
    first = finished(host, 2, task="t1")
    finished(host, 5, task="t2")
    response = host.get(f"/conversations/c1/resume/s1?cursor={first.epoch}-1")
    assert [frame["id"] for frame in frames(response.data)] == [f"{first.epoch}-2", f"{first.epoch}-3"]


def test_a_retry_goes_on_in_the_same_stream_with_an_attempt_frame(host: Host) -> None:
    first = host.begin()
    first.append(["a"])
    second = first.retry()
    second.append(["b"])
    second.end()
    response = host.get(f"/conversations/c1/resume/s1?cursor={first.epoch}-1")
    assert events(response.data) == [
        {"id": f"{second.epoch}-1", "event": "attempt", "data": {"attempt": 2}},
        {"id": f"{second.epoch}-2", "event": "token", "data": {"text": "b"}},
        {"id": f"{second.epoch}-3", "event": "end", "data": {"state": "completed"}},
    ]


def test_what_was_trimmed_shows_as_a_gap(make_host: MakeHost) -> None:
    host = make_host(max_events=3)
    job = finished(host, 6)
    found = events(host.get("/conversations/c1/resume/s1").data)
    assert found[0] == {"event": "gap", "data": {"requested": "0-0", "firstAvailable": f"{job.epoch}-5"}}
    assert [frame["id"] for frame in found[1:]] == [f"{job.epoch}-{n}" for n in (5, 6, 7)]


def test_a_lost_task_ends_with_its_last_events_id_and_is_204_then(host: Host) -> None:
    job = host.begin()
    job.append(["a"])
    host.clock.move(LEASE_MS)
    found = events(host.get("/conversations/c1/resume/s1").data)
    data = {"state": "lost", "errorType": None, "errorMessage": None, "taskId": "t1"}
    assert found[-1] == {"id": f"{job.epoch}-1", "event": "end", "data": data}
    headers = {"Last-Event-ID": f"{job.epoch}-1"}
    assert host.get("/conversations/c1/resume/s1", headers=headers).status_code == 204
    job.append(["b"])
    job.end()
    assert texts(host.get("/conversations/c1/resume/s1", headers=headers).data) == ["b"]


def test_a_running_task_is_followed_to_its_end(host: Host) -> None:
    job = host.begin()
    job.append(["a"], change=Change(current=1, total=4, message="reading"))
    response = host.get("/conversations/c1/stream")
    chunks = iter(response.response)
    seen = b"".join(next(chunks) for _ in range(2))  # type: ignore[arg-type]
    assert texts(seen) == ["a"]
    status = [frame for frame in frames(seen) if frame.get("event") == "status"]
    assert status == [
        {
            "event": "status",
            "data": {
                "state": "running",
                "attempt": 1,
                "current": 1,
                "total": 4,
                "note": "reading",
                "estimatedCompletion": None,
            },
        }
    ]
    job.append(["b"])
    job.end()
    rest = b"".join(chunks)  # type: ignore[arg-type]
    assert texts(rest) == ["b"]
    assert frames(rest)[-1]["event"] == "end"
    response.close()
    assert host.state.engine.hub.followers == 0


def test_a_deleted_session_ends_its_streams(host: Host) -> None:
    job = host.begin()
    job.append(["a"])
    response = host.get("/conversations/c1/stream")
    chunks = iter(response.response)
    for _ in range(2):
        next(chunks)
    host.store.delete_session("s1")
    end = frames(b"".join(chunks))[-1]  # type: ignore[arg-type]
    assert (end["event"], end["data"]["state"], end["data"]["taskId"]) == ("end", "cancelled", "t1")
    response.close()


def test_head_takes_no_followers_place(make_host: MakeHost) -> None:
    host = make_host(max_followers=1)
    host.begin().append(["a"])
    for path in ("/conversations/c1/resume/s1", "/conversations/c1/stream"):
        response = host.request("HEAD", path)
        assert (response.status_code, response.mimetype, response.data) == (200, "text/event-stream", b"")
        assert host.state.engine.hub.followers == 0


def test_past_the_bound_a_stream_is_shed_with_200_and_retry(make_host: MakeHost) -> None:
    host = make_host(max_followers=1)
    host.begin().append(["a"])
    first = host.get("/conversations/c1/stream")
    assert host.state.engine.hub.followers == 1
    second = host.get("/conversations/c1/stream")
    assert (second.status_code, second.data) == (200, b"retry: 1000\n")
    page = host.get("/sessions/s1/tasks/t1/events")
    assert page.status_code == 503
    assert page.headers["Retry-After"]
    first.close()
    assert host.state.engine.hub.followers == 0


def test_a_crowd_past_the_bound_is_told_to_come_back_a_few_at_a_time(make_host: MakeHost) -> None:
    host = make_host(max_followers=1)
    host.begin().append(["a"])
    first = host.get("/conversations/c1/stream")
    crowd_at(host)
    assert 10_000 < retry_of(host.get("/conversations/c1/stream")) <= 21_000
    first.close()


def test_the_ai_sdks_stream_has_bare_data_frames_and_done(host: Host) -> None:
    job = host.begin(wire="ai-sdk")
    job.append([("part", '{"type":"text-delta","id":"1","delta":"a"}')])
    response = host.get("/conversations/c1/stream")
    job.end()
    assert response.headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert frames(response.data) == [
        {"id": f"{job.epoch}-1", "data": {"type": "text-delta", "id": "1", "delta": "a"}},
        {"id": f"{job.epoch}-2", "data": "[DONE]"},
    ]


def test_control_frames_hold_no_key_message(host: Host) -> None:
    job = host.begin()
    job.append(["a"], change=Change(current=1, message="x"))
    job.append([("end", '{"state":"error","errorType":"E","errorMessage":"m","taskId":"t1"}')])
    job.append(end=End("error", "E", "m"))
    host.clock.move(1)
    for frame in frames(host.get(f"/conversations/c1/resume/s1?cursor={job.epoch}-99").data):
        assert frame["data"] not in (None, "")
        if frame.get("event") != "token":
            assert "message" not in frame["data"]
