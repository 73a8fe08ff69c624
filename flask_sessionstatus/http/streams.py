"""Streams over HTTP: which task, from where, and the response that carries it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flask import Response, current_app, request

from ..errors import StoreUnavailable
from ..models import ORIGIN, Cursor, Task, TaskState
from ..state import AppState
from ..stores.base import Store, TaskRef
from ..streaming.follower import Follower
from ..streaming.frames import WIRES
from ..streaming.stalls import Delivery
from .access import recovering
from .docs import EVENT_STREAM

if TYPE_CHECKING:
    from flask import Flask

RECENT_TASKS = 200
MAX_NUMBER = 2**64 - 1
# What servers call the client's connection: gunicorn, its gevent_pywsgi worker, and werkzeug's, which `flask run` uses.
CONNECTIONS = ("gunicorn.socket", "gunicorn.sock", "werkzeug.socket")
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def requested_cursor(query: Mapping[str, Any]) -> Cursor | None:
    """The cursor that the client comes with: `Last-Event-ID`, else `?cursor=`. Raises InvalidValue."""
    text = request.headers.get("Last-Event-ID") or query.get("cursor")
    return Cursor.parse(text) if text else None


def wants_stream() -> bool:
    return EVENT_STREAM in request.headers.get("Accept", "")


def task_of_cursor(
    store: Store,
    cursor: Cursor | None,
    default: Task | None,
    session_ids: Sequence[str],
    foreign: Sequence[Task] = (),
) -> tuple[Task | None, Cursor | None]:
    """The task that a cursor names among those of our own sessions, and of other programs' tasks, else the default.

    The second value is the cursor when it is one of something that is not here any more.
    """
    if cursor is None or cursor == ORIGIN:
        return default, None
    if default is not None and not default.foreign and cursor.epoch == default.epoch:
        return default, None
    tasks = [task for session_id in session_ids for task in store.tasks(session_id, RECENT_TASKS) or ()]
    later = sorted((task for task in tasks if task.epoch >= cursor.epoch), key=lambda task: task.epoch)
    if later and later[0].may_have_given(cursor):
        return later[0], None
    possible = [task for task in foreign if task.may_have_given(cursor)]
    if possible:
        return _whose_entry(store, cursor, default, possible), None
    return default, cursor


def _whose_entry(store: Store, cursor: Cursor, default: Task | None, tasks: list[Task]) -> Task:
    """The times of other programs' streams overlap: the task that has this very entry; else one that was there at the
    time, the default before others."""
    tasks.sort(key=lambda task: default is None or task.session_id != default.session_id)
    if len(tasks) > 1:
        before = Cursor(cursor.epoch, cursor.number - 1) if cursor.number else Cursor(cursor.epoch - 1, MAX_NUMBER)
        for task in tasks:
            page = store.events(TaskRef(task.conversation_id, task.session_id, task.task_id), before, 1)
            if page is not None and page.events and page.events[0].cursor == cursor:
                return task
    return next((task for task in tasks if task.created_at <= cursor.epoch), tasks[0])


def stream(
    state: AppState, namespace: str | None, task: Task | None, cursor: Cursor | None, gone: Cursor | None
) -> Response:
    """The response that carries a task's events after a cursor; 204 when there is nothing (more)."""
    if task is None:
        return shed_or_nothing(state)
    after = ORIGIN if cursor is None or gone is not None else cursor
    ref = TaskRef(task.conversation_id, task.session_id, task.task_id)
    can_follow = state.store.can_follow(ref)
    if gone is None and cursor is not None and _is_over(task, cursor):
        # What looks lost may only not have been heard of.
        return nothing_more() if task.state.terminal else shed_or_nothing(state)
    wire = WIRES[task.wire]
    headers = {**STREAM_HEADERS, **wire.headers}
    if request.method == "HEAD":
        return Response(b"", 200, headers, mimetype=EVENT_STREAM)
    hub = state.engine.hub
    if not can_follow:
        if task.wire == "ai-sdk":
            raise StoreUnavailable("These events can be read once Redis is back. Try again in a moment.")
        return _come_again(state)
    channel = hub.enter(ref)
    if channel is None and task.wire == "ai-sdk":
        raise StoreUnavailable("This process follows as many streams as it can. Try again in a moment.")
    if channel is None:
        return _come_again(state)
    follower = Follower(
        hub, channel, after, wire, allowed=still_allowed(state, namespace, task.conversation_id), gone=gone
    )
    connection = next((request.environ[key] for key in CONNECTIONS if key in request.environ), None)
    body = follower if connection is None else Delivery(follower, connection, state.engine.stalls)
    return Response(body, 200, headers, mimetype=EVENT_STREAM, direct_passthrough=True)


def still_allowed(state: AppState, namespace: str | None, conversation_id: str) -> Callable[[], bool]:
    """What asks, after the request, whether the client may still see the conversation."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]

    def allowed() -> bool:
        can_access = state.hooks.can_access
        if can_access is None:
            return True
        with app.app_context():
            return can_access(namespace, conversation_id)

    return allowed


def _is_over(task: Task, cursor: Cursor) -> bool:
    """Whether nothing (more) comes after the cursor: it is the end's, or the last that a lost task left."""
    return not task.state.live and (cursor == task.cursor or (task.state is TaskState.LOST and cursor > task.cursor))


def nothing_more() -> Response:
    """204: what makes a browser's EventSource stop."""
    return Response(status=204)


def shed_or_nothing(state: AppState) -> Response:
    """204, which is for good; but while the store is away or only just back, something may run that is not known."""
    return shed(state, recovering()) if state.store.recovering else nothing_more()


def shed(state: AppState, error: StoreUnavailable) -> Response:
    """The answer to a stream while the store is away: an EventSource must be told to come back, never an error
    status."""
    if not wants_stream():
        raise error
    return _come_again(state)


def _come_again(state: AppState) -> Response:
    """A stream that is over at once: it says when to come back."""
    opening = WIRES["sse"].opening(state.engine.hub.shedding.later())
    return Response(opening, 200, STREAM_HEADERS, mimetype=EVENT_STREAM)
