"""`/sessions/{id}/tasks…`: a session's tasks, their results and their events."""

from __future__ import annotations

from typing import Any

from flask import Response
from flask_smorest import Blueprint

from ..errors import NotFound, StoreUnavailable
from ..models import ORIGIN, Cursor, Event, Session, Task, check_id
from ..state import app_state
from ..stores import bounds
from ..stores.base import TaskRef
from ..streaming.follower import Gap, Item, json_page
from .access import caller, session_for_caller, unknown
from .docs import READ, document
from .responses import json_response
from .schemas import (
    SessionStatusEventsQuerySchema,
    SessionStatusEventsSchema,
    SessionStatusStopSchema,
    SessionStatusTaskSchema,
    SessionStatusTasksQuerySchema,
)
from .streams import requested_cursor, shed, stream, wants_stream

TASKS = "/sessions/<session_id>/tasks"
TASK = f"{TASKS}/<task_id>"

_task = SessionStatusTaskSchema()
_tasks = SessionStatusTaskSchema(many=True)
_stop = SessionStatusStopSchema()


def add_tasks(blueprint: Blueprint) -> None:
    """Add the task routes."""

    @blueprint.route(TASKS)
    @blueprint.arguments(SessionStatusTasksQuerySchema, location="query")
    @document(blueprint, 200, SessionStatusTaskSchema(many=True), *READ, summary="A session's tasks, the latest first")
    def list_tasks(query: dict[str, Any], session_id: str) -> Response:
        state = app_state()
        session = session_for_caller(state, session_id)
        wanted = query.get("state")
        limit = query["limit"]
        found = state.store.tasks(session_id, limit if wanted is None else bounds.TASKS)
        if found is None:
            raise unknown(state, "Session not found", sessionId=session_id)
        chosen = [task for task in found if wanted in (None, task.state.value) and _is_of(session, task)]
        return json_response(_tasks.dump(chosen[:limit]))

    @blueprint.route(TASK)
    @document(blueprint, 200, SessionStatusTaskSchema, *READ, summary="A task")
    def get_task(session_id: str, task_id: str) -> Response:
        _, task = _find(session_id, task_id)
        return json_response(_task.dump(task))

    @blueprint.route(f"{TASK}/result")
    @document(blueprint, 200, None, *READ, summary="A task's result")
    def get_result(session_id: str, task_id: str) -> Response:
        _find(session_id, task_id)
        text = app_state().store.result(session_id, task_id)
        if text is None:
            raise NotFound("No result", sessionId=session_id, taskId=task_id)
        return Response(text, mimetype="application/json")

    @blueprint.route(f"{TASK}/cancel", methods=["POST"])
    @document(blueprint, 202, SessionStatusStopSchema, *READ, summary="Ask a task to stop")
    def cancel_task(session_id: str, task_id: str) -> Response:
        session, _ = _find(session_id, task_id)
        state = app_state()
        task = state.store.cancel(TaskRef(session.conversation_id, session_id, task_id))
        if task is None:
            raise unknown(state, "Task not found", sessionId=session_id, taskId=task_id)
        return json_response(_stop.dump(task), 202)

    @blueprint.route(f"{TASK}/events")
    @blueprint.arguments(SessionStatusEventsQuerySchema, location="query")
    @document(
        blueprint,
        200,
        SessionStatusEventsSchema,
        *READ,
        also_stream=True,
        summary="A task's events after a cursor: a stream, or a JSON page",
    )
    def list_events(query: dict[str, Any], session_id: str, task_id: str) -> Response:
        cursor = requested_cursor(query)
        state = app_state()
        try:
            _, task = _find(session_id, task_id)
        except StoreUnavailable as error:
            return shed(state, error)
        if wants_stream():
            return stream(state, caller(state), task, cursor, None)
        wait = min(query.get("wait", 0.0), state.settings.max_wait)
        return _page(task, cursor or ORIGIN, wait)


def _find(session_id: str, task_id: str) -> tuple[Session, Task]:
    """The task, if the caller may have its session. Raises NotFound."""
    state = app_state()
    check_id(task_id, "taskId")
    session = session_for_caller(state, session_id)
    task = state.store.task(session_id, task_id)
    if task is None or not _is_of(session, task):
        raise unknown(state, "Task not found", sessionId=session_id, taskId=task_id)
    return session, task


def _is_of(session: Session, task: Task) -> bool:
    """Whether the task is of the session that was let through: another program's id may be a new one's meanwhile."""
    return task.conversation_id == session.conversation_id


def _page(task: Task, after: Cursor, wait: float) -> Response:
    if after != ORIGIN and after == task.cursor and task.state.terminal:
        return json_response({"events": [], "cursor": str(after), "done": True})
    hub = app_state().engine.hub
    channel = hub.enter(TaskRef(task.conversation_id, task.session_id, task.task_id))
    if channel is None:
        raise StoreUnavailable("This process follows as many streams as it can. Try again in a moment.")
    try:
        page = json_page(hub, channel, after, wait)
    finally:
        hub.leave(channel)
    if page is None:
        raise StoreUnavailable("The store is unavailable. Try again in a moment.")
    items, cursor, done = page
    return json_response({"events": [_shown(item) for item in items], "cursor": str(cursor), "done": done})


def _shown(item: Item) -> dict[str, Any]:
    if isinstance(item, Event):
        return {"cursor": str(item.cursor), "type": item.type, "data": item.data}
    if isinstance(item, Gap):
        data: Any = {"requested": str(item.requested), "firstAvailable": str(item.first)}
        return {"cursor": str(item.requested), "type": "gap", "data": data}
    return {"cursor": str(item.cursor), "type": "end", "data": Event(item.cursor, "end", item.json).data}
