"""`/conversations/{id}/…`: what is running, its stream, and the way to stop it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from flask import Response
from flask_smorest import Blueprint

from ..errors import StoreUnavailable, TaskRunning
from ..models import Cursor, Task, check_id
from ..sessions import active_task, current_session, latest_task
from ..state import AppState, app_state
from ..stores.base import TaskRef
from ..stores.codec import Snapshot
from .access import enter_conversation, is_visible, require_key, unknown, visible
from .docs import READ, document
from .responses import dumper, json_response, revalidated
from .schemas import (
    SessionStatusActiveSessionSchema,
    SessionStatusStopQuerySchema,
    SessionStatusStopSchema,
    SessionStatusStreamQuerySchema,
    SessionStatusTaskStatusSchema,
)
from .streams import requested_cursor, shed, shed_or_nothing, stream, task_of_cursor

CONVERSATION = "/conversations/<conversation_id>"

_stop = dumper(SessionStatusStopSchema())


def add_conversations(blueprint: Blueprint) -> None:
    """Add the conversation routes."""

    @blueprint.route(f"{CONVERSATION}/active-session")
    @document(
        blueprint, 200, SessionStatusActiveSessionSchema, *READ, not_modified=True, summary="The most recent session"
    )
    def active_session(conversation_id: str) -> Response:
        state = app_state()
        namespace = enter_conversation(state, conversation_id)
        current = current_session(visible(state, namespace, state.store.snapshot(conversation_id)))
        if current is None:
            raise unknown(state, "No active session found", conversationId=conversation_id)
        return revalidated(
            {
                "sessionId": current.session_id,
                "status": current.status.value,
                "cursor": str(current.cursor),
                "conversationId": conversation_id,
                "startedAt": current.started_at,
                "lastActivity": current.last_activity,
            }
        )

    @blueprint.route(f"{CONVERSATION}/task-status")
    @document(
        blueprint, 200, SessionStatusTaskStatusSchema, *READ, not_modified=True, summary="Whether a task is running"
    )
    def task_status(conversation_id: str) -> Response:
        state = app_state()
        namespace = enter_conversation(state, conversation_id)
        task = _current_task(visible(state, namespace, state.store.snapshot(conversation_id)))
        if task is None:
            raise unknown(state, "No background task found", conversationId=conversation_id)
        return revalidated(
            {
                "isActive": task.state.live,
                "sessionId": task.session_id,
                "estimatedCompletion": task.estimated_completion,
                "conversationId": conversation_id,
            }
        )

    @blueprint.route(f"{CONVERSATION}/resume/<session_id>", methods=["GET", "POST"])
    @blueprint.arguments(SessionStatusStreamQuerySchema, location="query")
    @document(blueprint, 200, None, *READ, stream=True, summary="The stream of a session's task, after a cursor")
    def resume(query: dict[str, Any], conversation_id: str, session_id: str) -> Response:
        state = app_state()
        check_id(session_id, "sessionId")
        namespace = enter_conversation(state, conversation_id)
        cursor = requested_cursor(query)
        try:
            snapshot = state.store.snapshot(conversation_id)
            found = _in_conversation(state, snapshot, session_id) if is_visible(state, namespace, snapshot) else None
            if found is None:
                raise unknown(state, "Session not found", sessionId=session_id, conversationId=conversation_id)
            key, latest = found
            require_key(session_id, key)
            if latest is None:
                return shed_or_nothing(state)
            task, gone = _named(state, cursor, latest, snapshot, [session_id])
        except StoreUnavailable as error:
            return shed(state, error)
        return stream(state, namespace, task, cursor, gone)

    @blueprint.route(f"{CONVERSATION}/stream")
    @blueprint.arguments(SessionStatusStreamQuerySchema, location="query")
    @document(blueprint, 200, None, 401, 403, 422, 503, stream=True, summary="The stream of the active task")
    def active_stream(query: dict[str, Any], conversation_id: str) -> Response:
        state = app_state()
        namespace = enter_conversation(state, conversation_id)
        cursor = requested_cursor(query)
        try:
            snapshot = visible(state, namespace, state.store.snapshot(conversation_id))
            if not snapshot.sessions:
                return shed_or_nothing(state)
            active = active_task(snapshot)
            first = snapshot.task(active) if active is not None else None
            task, gone = _named(state, cursor, first, snapshot, snapshot.sessions)
        except StoreUnavailable as error:
            return shed(state, error)
        return stream(state, namespace, task, cursor, gone)

    @blueprint.route(f"{CONVERSATION}/stop", methods=["POST"])
    @blueprint.arguments(SessionStatusStopQuerySchema, location="query")
    @document(
        blueprint, 202, SessionStatusStopSchema, 401, 403, 404, 409, 422, 503, summary="Ask the active task to stop"
    )
    def stop(query: dict[str, Any], conversation_id: str) -> Response:
        state = app_state()
        namespace = enter_conversation(state, conversation_id)
        snapshot = visible(state, namespace, state.store.snapshot(conversation_id))
        wanted = query.get("session_id")
        task_id = active_task(snapshot, wanted) or active_task(snapshot)
        if task_id is not None and wanted is not None and snapshot.tasks[task_id]["session"] != wanted:
            raise TaskRunning(
                "The task of another session is active.", sessionId=wanted, conversationId=conversation_id
            )
        if task_id is not None:
            ref = TaskRef(conversation_id, snapshot.tasks[task_id]["session"], task_id)
            task = state.store.cancel(ref)
            if task is not None and task.cancel_requested_at is not None:
                return json_response(_stop(task), 202)
        raise unknown(state, "No active session to stop", conversationId=conversation_id)


def _in_conversation(state: AppState, snapshot: Snapshot, session_id: str) -> tuple[str | None, Task | None] | None:
    """The namespace key and the latest task of one of the conversation's sessions, which need not be a recent one."""
    if session_id in snapshot.sessions:
        task_id = latest_task(snapshot, session_id)
        task = snapshot.task(task_id) if task_id is not None else None
        return snapshot.sessions[session_id].get("key"), task
    session = state.store.session(session_id)
    if session is None or session.conversation_id != snapshot.conversation_id:
        return None
    return session.key, session.latest_task


def _named(
    state: AppState, cursor: Cursor | None, default: Task | None, snapshot: Snapshot, session_ids: Collection[str]
) -> tuple[Task | None, Cursor | None]:
    """The task that a cursor names among those of sessions of a conversation: see task_of_cursor.

    Other programs' tasks are taken as they were seen, not looked up again: their sessions' ids may be others' too.
    """
    foreign = [
        snapshot.task(task_id)
        for task_id, record in snapshot.tasks.items()
        if record.get("foreign") and record["session"] in session_ids
    ]
    theirs = {task.session_id for task in foreign}
    own = [session_id for session_id in session_ids if session_id not in theirs]
    return task_of_cursor(state.store, cursor, default, own, foreign)


def _current_task(snapshot: Snapshot) -> Task | None:
    """The active task, else the latest one."""
    task_id = active_task(snapshot) or latest_task(snapshot)
    return snapshot.task(task_id) if task_id is not None else None
