"""Who the caller is, and what he may see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import current_app

from ..errors import Forbidden, NotFound, SessionStatusError, StoreUnavailable, Unauthorized
from ..models import Session, check_id, namespace_of
from ..sessions import owner_of
from ..stores.codec import Snapshot

if TYPE_CHECKING:
    from ..extension import AppState


def app_state() -> AppState:
    """The present app's state."""
    state: AppState = current_app.extensions["sessionstatus"]
    return state


def caller(state: AppState) -> str | None:
    """The caller's namespace; None for a host without owners.

    Raises Unauthorized when it knows nobody, and Forbidden while nobody has said who may use the routes.
    """
    identify = state.hooks.identify
    if identify is None:
        if state.settings.allow_anonymous:
            return None
        raise Forbidden(
            "No access rule is set up: give SessionStatus(identify=…) or set SESSIONSTATUS_ALLOW_ANONYMOUS."
        )
    known = identify()
    if known is None:
        raise Unauthorized("Sign in first: the caller is not known.")
    return namespace_of(known)


def enter_conversation(state: AppState, conversation_id: str) -> str | None:
    """Check the id and the caller before anything is read; returns the caller. Raises Forbidden when `can_access`
    refuses."""
    check_id(conversation_id, "conversationId")
    namespace = caller(state)
    can_access = state.hooks.can_access
    if can_access is not None and not can_access(namespace, conversation_id):
        raise Forbidden("This conversation is not yours to see.", conversationId=conversation_id)
    return namespace


def is_visible(state: AppState, namespace: str | None, snapshot: Snapshot) -> bool:
    """Whether what was read may be shown: without `can_access`, only to the owner of the conversation."""
    if not snapshot.sessions:
        return False
    if state.hooks.can_access is not None or state.anonymous:
        return True
    return owner_of(snapshot) == namespace


def session_for_caller(state: AppState, session_id: str) -> Session:
    """The session, if the caller may have it. Raises NotFound for every refusal, so that ids cannot be probed."""
    check_id(session_id, "sessionId")
    namespace = caller(state)
    session = state.store.session(session_id)
    if session is None or not may_have(state, namespace, session):
        raise unknown(state, "Session not found", sessionId=session_id)
    return session


def may_have(state: AppState, namespace: str | None, session: Session) -> bool:
    """Whether the caller may read and change the session."""
    can_access = state.hooks.can_access
    if can_access is not None:
        return can_access(namespace, session.conversation_id)
    return state.anonymous or session.namespace_id == namespace


def unknown(state: AppState, sentence: str, **ids: str) -> SessionStatusError:
    """404; but while the writers may not have healed the store yet, 503."""
    return recovering() if state.store.recovering else NotFound(sentence, **ids)


def recovering() -> StoreUnavailable:
    return StoreUnavailable("The store is only just back. Try again in a moment.")
