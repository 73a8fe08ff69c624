"""`/conversations/{id}/…`: what is running, its stream, and the way to stop it."""

from __future__ import annotations

from typing import Any

from flask import Response
from flask_smorest import Blueprint

from ..errors import StoreUnavailable, TaskRunning
from ..models import Task, check_id
from ..sessions import active_task, current_session, latest_task
from ..stores.base import TaskRef
from ..stores.codec import Snapshot
from .access import app_state, enter_conversation, is_visible, recovering, unknown
from .docs import READ, document
from .responses import dumper, json_response, revalidated
from .schemas import (
    SessionStatusActiveSessionSchema,
    SessionStatusStopQuerySchema,
    SessionStatusStopSchema,
    SessionStatusStreamQuerySchema,
    SessionStatusTaskStatusSchema,
)
from .streams import nothing_more, requested_cursor, shed, stream, task_of_cursor

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
        snapshot = state.store.snapshot(conversation_id)
        current = current_session(snapshot) if is_visible(state, namespace, snapshot) else None
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
        snapshot = state.store.snapshot(conversation_id)
        task = _current_task(snapshot) if is_visible(state, namespace, snapshot) else None
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
            if session_id not in snapshot.sessions or not is_visible(state, namespace, snapshot):
                raise unknown(state, "Session not found", sessionId=session_id, conversationId=conversation_id)
            latest = latest_task(snapshot, session_id)
            if latest is None:
                return nothing_more()
            task, gone = task_of_cursor(state.store, snapshot, cursor, snapshot.task(latest), [session_id])
        except StoreUnavailable as error:
            return shed(error)
        return stream(state, namespace, task, cursor, gone)

    @blueprint.route(f"{CONVERSATION}/stream")
    @blueprint.arguments(SessionStatusStreamQuerySchema, location="query")
    @document(blueprint, 200, None, 401, 403, 422, 503, stream=True, summary="The stream of the active task")
    def active_stream(query: dict[str, Any], conversation_id: str) -> Response:
        state = app_state()
        namespace = enter_conversation(state, conversation_id)
        cursor = requested_cursor(query)
        try:
            snapshot = state.store.snapshot(conversation_id)
            if not is_visible(state, namespace, snapshot):
                return nothing_more() if not state.store.recovering else shed(recovering())
            active = active_task(snapshot)
            first = snapshot.task(active) if active is not None else None
            task, gone = task_of_cursor(state.store, snapshot, cursor, first, list(snapshot.sessions))
        except StoreUnavailable as error:
            return shed(error)
        return stream(state, namespace, task, cursor, gone)

    @blueprint.route(f"{CONVERSATION}/stop", methods=["POST"])
    @blueprint.arguments(SessionStatusStopQuerySchema, location="query")
    @document(
        blueprint, 202, SessionStatusStopSchema, 401, 403, 404, 409, 422, 503, summary="Ask the active task to stop"
    )
    def stop(query: dict[str, Any], conversation_id: str) -> Response:
        state = app_state()
        namespace = enter_conversation(state, conversation_id)
        snapshot = state.store.snapshot(conversation_id)
        wanted = query.get("session_id")
        task_id = None
        if is_visible(state, namespace, snapshot):
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


def _current_task(snapshot: Snapshot) -> Task | None:
    """The active task, else the latest one."""
    task_id = active_task(snapshot) or latest_task(snapshot)
    return snapshot.task(task_id) if task_id is not None else None
