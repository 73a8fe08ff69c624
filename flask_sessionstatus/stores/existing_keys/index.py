"""Which sessions of other programs there are: all that a process keeps of them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

from .templates import Place

log = logging.getLogger("flask_sessionstatus")

MAX_SESSIONS = 1_000_000

Names = str | dict[str, None]
"""One name, as most have; several in the order in which they came."""


class Index:
    """The sessions of a conversation, and the conversations of a session id. Bounded: beyond `maximum` the one that
    was found first is forgotten."""

    def __init__(self, maximum: int = MAX_SESSIONS) -> None:
        self._maximum = maximum
        self._lock = threading.Lock()
        self._sessions: dict[str, Names] = {}
        self._conversations: dict[str, Names] = {}
        self._count = 0
        self._told = False

    def __len__(self) -> int:
        return self._count

    def __contains__(self, place: Place) -> bool:
        known = self._sessions.get(place.conversation_id)
        return known == place.session_id or (type(known) is dict and place.session_id in known)

    def sessions(self, conversation_id: str) -> list[str]:
        """The sessions of a conversation, the last found last."""
        with self._lock:
            return _listed(self._sessions.get(conversation_id))

    def conversations(self, session_id: str) -> list[str]:
        """The conversations that have a session of this id: one, unless two programs' ids are the same."""
        with self._lock:
            return _listed(self._conversations.get(session_id))

    def add(self, place: Place) -> bool:
        """Take note of a session; False when it was known."""
        with self._lock:
            if place in self:
                return False
            _add(self._sessions, place.conversation_id, place.session_id)
            _add(self._conversations, place.session_id, place.conversation_id)
            self._count += 1
            if self._count > self._maximum:
                self._forget_one()
            return True

    def discard(self, place: Place) -> None:
        """Forget a session."""
        with self._lock:
            if place in self:
                self._discard(place)

    def places(self) -> Iterator[Place]:
        """All that are known; nobody waits meanwhile."""
        for conversation_id in list(self._sessions):
            for session_id in self.sessions(conversation_id):
                yield Place(conversation_id, session_id)

    def _discard(self, place: Place) -> None:
        _discard(self._sessions, place.conversation_id, place.session_id)
        _discard(self._conversations, place.session_id, place.conversation_id)
        self._count -= 1

    def _forget_one(self) -> None:
        conversation_id = next(iter(self._sessions))
        self._discard(Place(conversation_id, _listed(self._sessions[conversation_id])[0]))
        if not self._told:
            self._told = True
            log.warning("There are more than %d sessions of other programs: the oldest are not seen.", self._maximum)


def _listed(names: Names | None) -> list[str]:
    return [] if names is None else [names] if isinstance(names, str) else list(names)


def _add(table: dict[str, Names], key: str, name: str) -> None:
    known = table.get(key)
    if known is None:
        table[key] = name
    elif isinstance(known, str):
        table[key] = {known: None, name: None}
    else:
        known[name] = None


def _discard(table: dict[str, Names], key: str, name: str) -> None:
    known = table[key]
    if isinstance(known, str):
        del table[key]
        return
    del known[name]
    if len(known) == 1:
        (table[key],) = known
