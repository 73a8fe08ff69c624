"""`/sessions…`: sessions, their turns and their figures."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from flask import Response, request, url_for
from flask_smorest import Blueprint

from ..errors import Forbidden, InvalidValue, NotFound, SessionConflict
from ..models import Session, Turn
from ..state import app_state
from .access import caller, check_new_key, session_for_caller, unknown
from .body import flat, read_json
from .docs import READ, WRITE, document
from .responses import json_response
from .schemas import (
    SessionStatusClosedSchema,
    SessionStatusNewSessionSchema,
    SessionStatusSessionChangeSchema,
    SessionStatusSessionSchema,
    SessionStatusSessionsQuerySchema,
    SessionStatusStatsSchema,
    SessionStatusSummarySchema,
    SessionStatusTurnSchema,
    SessionStatusTurnsQuerySchema,
)

SESSION = "/sessions/<session_id>"

_session = SessionStatusSessionSchema()
_summaries = SessionStatusSummarySchema(many=True)
_turn = SessionStatusTurnSchema()
_turns = SessionStatusTurnSchema(many=True)


def add_sessions(blueprint: Blueprint) -> None:
    """Add the session routes."""

    @blueprint.route("/sessions", methods=["POST"])
    @blueprint.arguments(SessionStatusNewSessionSchema, required=False)
    @document(blueprint, 201, SessionStatusSessionSchema, *WRITE, 429, summary="Make a session")
    def create_session(body: dict[str, Any]) -> Response:
        state = app_state()
        namespace = caller(state)
        wanted = body.pop("namespace_id", None)
        if state.anonymous:
            namespace = wanted
        elif wanted is not None and wanted != namespace:
            raise Forbidden("The namespaceId is not yours.", namespaceId=wanted)
        conversation_id = body.pop("conversation_id", None)
        can_access = state.hooks.can_access
        if can_access is not None and conversation_id is not None and not can_access(namespace, conversation_id):
            raise Forbidden("This conversation is not yours to see.", conversationId=conversation_id)
        check_new_key(state, namespace, body.get("key_hash"))
        sessions = state.sessions
        try:
            session = sessions.create(
                conversation_id,
                namespace_id=namespace,
                for_socket=state.settings.websocket_path is not None,
                **body,
            )
        except SessionConflict:
            raise NotFound("Conversation not found", conversationId=conversation_id or "") from None
        endpoint = request.endpoint or ""
        location = url_for(f"{endpoint.rpartition('.')[0]}.get_session", session_id=session.session_id)
        return json_response(_dump(session), 201, {"Location": location})

    @blueprint.route("/sessions", methods=["GET"])
    @blueprint.arguments(SessionStatusSessionsQuerySchema, location="query")
    @document(
        blueprint,
        200,
        SessionStatusSummarySchema(many=True),
        401,
        403,
        422,
        503,
        summary="The caller's sessions, newest activity first",
    )
    def list_sessions(query: dict[str, Any]) -> Response:
        state = app_state()
        page = state.sessions.list(caller(state), **query)
        headers = {}
        if page.next is not None:
            following = urlencode({**request.args.to_dict(), "cursor": page.next}, quote_via=quote)
            headers["Link"] = f'<{request.script_root}{request.path}?{following}>; rel="next"'
        return json_response(_summaries.dump(page.sessions), 200, headers)

    @blueprint.route(SESSION, methods=["GET"])
    @document(blueprint, 200, SessionStatusSessionSchema, *READ, summary="A session")
    def get_session(session_id: str) -> Response:
        state = app_state()
        session = session_for_caller(state, session_id)
        state.engine.tallies.add(session_id, {"accesses": 1})
        return json_response(_dump(session))

    @blueprint.route(SESSION, methods=["PATCH"])
    @blueprint.arguments(SessionStatusSessionChangeSchema, required=False)
    @document(blueprint, 200, SessionStatusSessionSchema, *WRITE, summary="Change metadata or language")
    def update_session(body: dict[str, Any], session_id: str) -> Response:
        state = app_state()
        session_for_caller(state, session_id)
        return json_response(_dump(state.sessions.update(session_id, **body)))

    @blueprint.route(SESSION, methods=["DELETE"])
    @document(blueprint, 200, SessionStatusClosedSchema, *READ, summary="Delete a session; its tasks are told to stop")
    def delete_session(session_id: str) -> Response:
        state = app_state()
        session_for_caller(state, session_id)
        if not state.store.delete_session(session_id):
            raise unknown(state, "Session not found", sessionId=session_id)
        return json_response({"status": "closed", "sessionId": session_id})

    @blueprint.route(f"{SESSION}/messages", methods=["GET"])
    @blueprint.arguments(SessionStatusTurnsQuerySchema, location="query")
    @document(blueprint, 200, SessionStatusTurnSchema(many=True), *READ, summary="A session's turns, oldest first")
    def list_messages(query: dict[str, Any], session_id: str) -> Response:
        state = app_state()
        session_for_caller(state, session_id)
        turns = state.sessions.turns(session_id, limit=query["limit"], before=query.get("before"))
        return json_response(_turns.dump(turns))

    @blueprint.route(f"{SESSION}/messages", methods=["POST"])
    @document(
        blueprint, 201, SessionStatusTurnSchema, *WRITE, summary="Append a turn, or an array of turns as one step"
    )
    def add_messages(session_id: str) -> Response:
        state = app_state()
        session_for_caller(state, session_id)
        body = read_json(request)
        several = isinstance(body, list)
        turns = _load_turns(body if several else [body], state.settings.client_roles)
        stored = _turns.dump(state.sessions.add_turns(session_id, turns))
        return json_response(stored if several else stored[0], 201)

    @blueprint.route(f"{SESSION}/stats", methods=["GET"])
    @document(blueprint, 200, SessionStatusStatsSchema, *READ, summary="A session's figures, without personal data")
    def session_stats(session_id: str) -> Response:
        state = app_state()
        session = session_for_caller(state, session_id)
        return json_response(
            {
                "sessionIdTruncated": session_id[:8],
                "status": session.status.value,
                "ageSeconds": (session.seen_at - session.created_at) // 1000,
                "messageCount": session.message_count,
                "pendingTasksCount": session.pending_tasks_count,
                "deviceType": session.device_type,
                "audioChunksReceived": session.audio_chunks_received,
                "audioChunksProcessed": session.audio_chunks_processed,
                "counters": dict(session.counters),
            }
        )


def _dump(session: Session) -> dict[str, Any]:
    return {**_session.dump(session), "websocketUrl": _websocket_url(session.session_id)}


def _websocket_url(session_id: str) -> str | None:
    """Where the session's socket is, as this request's client reaches this app; None without a path for sockets."""
    path = app_state().settings.websocket_path
    if path is None:
        return None
    scheme = "wss" if request.is_secure else "ws"
    return f"{scheme}://{request.host}{quote(request.script_root + path)}?session_id={quote(session_id, safe='')}"


def _load_turns(body: list[Any], roles: tuple[str, ...]) -> list[Turn]:
    """Turns from a client's JSON. Raises InvalidValue, naming the position where there are several."""
    problems: dict[str, list[str]] = {}
    turns = []
    if not body:
        raise InvalidValue("The request holds invalid values.", {"body": ["An array of turns must not be empty."]})
    for position, item in enumerate(body):
        messages = _turn.validate(item) if isinstance(item, dict) else {"_schema": ["Not an object."]}
        if not messages and item["role"] not in roles:
            messages = {"role": [f"A client may only write as {', '.join(roles)}."]}
        if messages:
            problems.update(flat(messages, str(position) if len(body) > 1 else ""))
        else:
            turns.append(Turn(**_turn.load(item)))
    if problems:
        raise InvalidValue("The request holds invalid values.", problems)
    return turns
