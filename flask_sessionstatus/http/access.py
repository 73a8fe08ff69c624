"""Who the caller is, and what he may see."""

from __future__ import annotations

from hmac import compare_digest

from flask import request

from ..errors import Forbidden, NotFound, SessionStatusError, StoreUnavailable, Unauthorized
from ..models import Session, check_id, namespace_of
from ..sessions import key_digest, owner_of
from ..state import AppState
from ..stores.codec import Snapshot

KEY_HEADER = "X-Namespace-Key"


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
    require_key(session_id, session.key)
    return session


def check_new_key(state: AppState, namespace: str | None, key_hash: str | None) -> None:
    """Raise Unauthorized unless the host's `verify_key`, where there is one, knows the key of a new session."""
    verify = state.hooks.verify_key
    if verify is not None and (key_hash is None or not verify(namespace, key_hash)):
        raise Unauthorized("The namespace key (keyHash) is missing or wrong.")


def shows_key(session_id: str, key: str | None) -> bool:
    """Whether the request shows the namespace key of the session, if it has one: `X-Namespace-Key`, else `?key=`."""
    if key is None:
        return True
    shown = request.headers.get(KEY_HEADER) or request.args.get("key") or ""
    return compare_digest(key_digest(session_id, shown), key)


def require_key(session_id: str, key: str | None) -> None:
    """Raise Unauthorized unless the request shows the session's namespace key."""
    if not shows_key(session_id, key):
        raise Unauthorized(f"The session's namespace key is missing or wrong: {KEY_HEADER}.", sessionId=session_id)


def visible(state: AppState, namespace: str | None, snapshot: Snapshot) -> Snapshot:
    """What of a conversation may be shown: all of it, what no key is missing for, or nothing."""
    if not is_visible(state, namespace, snapshot):
        return snapshot.only(())
    locked = {session_id for session_id, record in snapshot.sessions.items() if "key" in record}
    if not locked:
        return snapshot
    return snapshot.only(
        session_id for session_id, record in snapshot.sessions.items() if shows_key(session_id, record.get("key"))
    )


def may_have(state: AppState, namespace: str | None, session: Session) -> bool:
    """Whether the caller may read and change the session."""
    can_access = state.hooks.can_access
    if can_access is not None:
        return can_access(namespace, session.conversation_id)
    return state.anonymous or session.namespace_id == namespace


def unknown(state: AppState, sentence: str, **ids: str) -> SessionStatusError:
    """404; but while the writers may not have healed the store yet, or it is away, 503."""
    if state.store.recovering and not state.store.is_gone(ids.get("sessionId", "")):
        return recovering()
    return NotFound(sentence, **ids)


def recovering() -> StoreUnavailable:
    return StoreUnavailable("The store is away or only just back, and this is not known. Try again in a moment.")
