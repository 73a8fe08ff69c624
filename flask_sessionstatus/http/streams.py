"""Streams over HTTP: which task, from where, and the response that carries it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flask import Response, current_app, request

from ..errors import StoreUnavailable
from ..models import ORIGIN, Cursor, Task, TaskState
from ..stores.base import Store, TaskRef
from ..stores.codec import Snapshot
from ..streaming.follower import Follower
from ..streaming.frames import WIRES
from .docs import EVENT_STREAM

if TYPE_CHECKING:
    from flask import Flask

    from ..extension import AppState

RECENT_TASKS = 200
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def requested_cursor(query: Mapping[str, Any]) -> Cursor | None:
    """The cursor that the client comes with: `Last-Event-ID`, else `?cursor=`. Raises InvalidValue."""
    text = request.headers.get("Last-Event-ID") or query.get("cursor")
    return Cursor.parse(text) if text else None


def wants_stream() -> bool:
    return EVENT_STREAM in request.headers.get("Accept", "")


def task_of_cursor(
    store: Store, snapshot: Snapshot, cursor: Cursor | None, default: Task | None, session_ids: Sequence[str]
) -> tuple[Task | None, Cursor | None]:
    """The task that a cursor names among those of the sessions, else the default.

    The second value is the cursor when it is one of something that is not here any more.
    """
    if cursor is None or cursor == ORIGIN or (default is not None and cursor.epoch == default.epoch):
        return default, None
    tasks = [task for session_id in session_ids for task in store.tasks(session_id, RECENT_TASKS) or ()]
    # An earlier attempt's events lie in the stream of the task, under an epoch below its present one.
    later = sorted((task for task in tasks if task.epoch >= cursor.epoch), key=lambda task: task.epoch)
    for task in later[:1]:
        if task.epoch == cursor.epoch or (task.attempt > 1 and task.created_at <= cursor.epoch):
            return task, None
    return default, cursor


def stream(
    state: AppState, namespace: str | None, task: Task | None, cursor: Cursor | None, gone: Cursor | None
) -> Response:
    """The response that carries a task's events after a cursor; 204 when there is nothing (more)."""
    if task is None:
        return nothing_more()
    after = ORIGIN if cursor is None or gone is not None else cursor
    if gone is None and cursor is not None and _is_over(task, cursor):
        return nothing_more()
    wire = WIRES[task.wire]
    headers = {**STREAM_HEADERS, **wire.headers}
    if request.method == "HEAD":
        return Response(b"", 200, headers, mimetype=EVENT_STREAM)
    hub = state.engine.hub
    channel = hub.enter(TaskRef(task.conversation_id, task.session_id, task.task_id))
    if channel is None and task.wire == "ai-sdk":
        raise StoreUnavailable("This process follows as many streams as it can. Try again in a moment.")
    if channel is None:
        return Response(wire.opening(), 200, headers, mimetype=EVENT_STREAM)
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]

    def allowed() -> bool:
        can_access = state.hooks.can_access
        if can_access is None:
            return True
        with app.app_context():
            return can_access(namespace, task.conversation_id)

    follower = Follower(hub, channel, after, wire, allowed=allowed, gone=gone)
    return Response(follower, 200, headers, mimetype=EVENT_STREAM, direct_passthrough=True)


def _is_over(task: Task, cursor: Cursor) -> bool:
    """Whether nothing (more) comes after the cursor: it is the end's, or the last that a lost task left."""
    return not task.state.live and (cursor == task.cursor or (task.state is TaskState.LOST and cursor > task.cursor))


def nothing_more() -> Response:
    """204: what makes a browser's EventSource stop."""
    return Response(status=204)


def shed(error: StoreUnavailable) -> Response:
    """The answer to a stream while the store is away: an EventSource must be told to come back, never an error
    status."""
    if not wants_stream():
        raise error
    return Response(WIRES["sse"].opening(), 200, STREAM_HEADERS, mimetype=EVENT_STREAM)
