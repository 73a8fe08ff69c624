"""Sessions: what the routes and the host call. The routes add access rules to it and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, NamedTuple
from uuid import uuid4

from .errors import InvalidValue, NotFound, SessionStatusError, StoreUnavailable
from .models import ORIGIN, ROLES, Cursor, Json, Session, SessionState, TaskState, Turn, check_id, namespace_of, to_json
from .stores.base import SessionDraft, SessionPage, Store
from .stores.bounds import NAMES
from .stores.codec import Snapshot, TaskRecord

MAX_TEXT = 256
HISTORY = 6
LOOKED_BACK = 20
ALL = 10**9
MAX_AMOUNT = 10**12


class _Unset:
    def __repr__(self) -> str:
        return "<unset>"


UNSET: Any = _Unset()


def key_digest(session_id: str, key_hash: str) -> str:
    """What is kept of a session's namespace key: enough to recognise it, nothing to show it from."""
    return blake2b(key_hash.encode(), key=blake2b(session_id.encode()).digest(), digest_size=16).hexdigest()


class CurrentSession(NamedTuple):
    """A conversation's most recent session, as `active-session` shows it."""

    session_id: str
    status: SessionState
    cursor: Cursor
    started_at: int
    last_activity: int


def owner_of(snapshot: Snapshot) -> str | None:
    """The namespace that a conversation belongs to: that of its first live session."""
    first = min((session["created"], session_id) for session_id, session in snapshot.sessions.items())
    return snapshot.sessions[first[1]].get("ns")


def current_session(snapshot: Snapshot) -> CurrentSession | None:
    """The most recent session: one with a live task first, then by latest epoch, then by creation. None without any."""
    newest: dict[str, TaskRecord] = {}
    activity: dict[str, int] = {}
    live = set()
    for task in snapshot.tasks.values():
        session_id = task["session"]
        if session_id not in newest or task["epoch"] > newest[session_id]["epoch"]:
            newest[session_id] = task
        activity[session_id] = max(activity.get(session_id, 0), task["activity"])
        if snapshot.is_live(task):
            live.add(session_id)
    best: tuple[bool, int, int, int, str] | None = None
    for session_id, session in snapshot.sessions.items():
        epoch, tail = _place(newest[session_id]) if session_id in newest else (0, 0)
        rank = session_id in live, epoch, tail, session["created"], session_id
        if best is None or rank > best:
            best = rank
    if best is None:
        return None
    is_active, _, _, created, session_id = best
    latest = newest.get(session_id)
    status = SessionState.ACTIVE if is_active else SessionState.IDLE
    if not is_active and latest is not None and latest["state"] == TaskState.COMPLETED:
        status = SessionState.COMPLETED
    has_events = latest is not None and (latest["tail"] or latest.get("foreign"))
    cursor = Cursor(latest["epoch"], latest["tail"]) if latest is not None and has_events else ORIGIN
    last_activity = max(snapshot.sessions[session_id]["activity"], activity.get(session_id, 0))
    return CurrentSession(session_id, status, cursor, created, last_activity)


def active_task(snapshot: Snapshot, session_id: str | None = None) -> str | None:
    """The id of the latest live task of the conversation, or of one session."""
    live = {
        task_id: _place(task)
        for task_id, task in snapshot.tasks.items()
        if snapshot.is_live(task) and session_id in (None, task["session"])
    }
    return max(live, key=lambda task_id: live[task_id], default=None)


def latest_task(snapshot: Snapshot, session_id: str | None = None) -> str | None:
    """The id of the latest task of a session, or of the conversation."""
    wanted = {
        task_id: _place(task)
        for task_id, task in snapshot.tasks.items()
        if session_id is None or task["session"] == session_id
    }
    return max(wanted, key=lambda task_id: wanted[task_id], default=None)


def _place(task: TaskRecord) -> tuple[int, int]:
    """What tells which task is later: the epoch; other programs' ids are times, and two may be of one ms."""
    return task["epoch"], task["tail"]


class Sessions:
    """Create, read, change and delete sessions and their turns.

    `default_namespace` gives the caller's namespace where none is named; `own` says whether conversations have owners;
    `tally` takes what is counted of a session, by field.
    """

    def __init__(
        self,
        store: Callable[[], Store],
        default_namespace: Callable[[], str | None],
        default_language: Callable[[], str] = lambda: "nl",
        own: Callable[[], bool] = lambda: True,
        *,
        tally: Callable[[str, Mapping[str, int]], None],
    ) -> None:
        self._store = store
        self._default_namespace = default_namespace
        self._default_language = default_language
        self._own = own
        self._tally = tally

    def draft(
        self,
        conversation_id: str | None,
        session_id: str | None = None,
        *,
        namespace_id: Any = UNSET,
        metadata: Mapping[str, Json] | None = None,
        language: str | None = None,
        device_type: str | None = None,
        client_version: str | None = None,
        for_socket: bool = False,
        key_hash: str | None = None,
    ) -> SessionDraft:
        """A checked draft of a session. Raises InvalidValue."""
        known_as = check_id(session_id, "sessionId") if session_id is not None else str(uuid4())
        key = _short(key_hash, "keyHash")
        namespace = self._default_namespace() if namespace_id is UNSET else namespace_id
        return SessionDraft(
            session_id=known_as,
            conversation_id=check_id(conversation_id, "conversationId")
            if conversation_id is not None
            else str(uuid4()),
            namespace_id=None if namespace is None else namespace_of(namespace),
            language=_short(language, "language") or self._default_language(),
            device_type=_short(device_type, "deviceType"),
            client_version=_short(client_version, "clientVersion"),
            metadata=_mapping(metadata or {}, "metadata"),
            for_socket=for_socket,
            key=None if key is None else key_digest(known_as, key),
        )

    def create(self, conversation_id: str | None = None, session_id: str | None = None, **options: Any) -> Session:
        """Make a session and return it; an id that is there already is returned as it stands.

        Options: namespace_id, metadata, language, device_type, client_version, for_socket (it ends soon unless somebody
        connects), and key_hash: over HTTP it must then be shown.
        Raises NotFound for an id that was deleted, SessionConflict, NamespaceFull, InvalidValue.
        """
        draft = self.draft(conversation_id, session_id, **options)
        self._store().create_session(draft, self._own())
        return self._known(draft.session_id)

    def get(self, session_id: str) -> Session | None:
        """The session, or None: unknown, expired or deleted.

        Raises StoreUnavailable for one that is not there while the store recovers from an outage, or stands in for one
        that is away: then it may only not be known.
        """
        session = self._store().session(check_id(session_id, "sessionId"))
        if session is None and self._may_be_there(session_id):
            raise self._unknown(session_id)
        return session

    def get_or_create(self, session_id: str, conversation_id: str | None = None, **options: Any) -> Session:
        """The session of this id; made, by exactly one of those who ask at once, when there is none.

        Without a conversation's id a new session's is the session's. Options and errors as for `create`.
        """
        if conversation_id is None:
            found = self._store().session(check_id(session_id, "sessionId"))
            conversation_id = session_id if found is None else found.conversation_id
        return self.create(conversation_id, session_id, **options)

    def _known(self, session_id: str) -> Session:
        session = self._store().session(session_id)
        if session is None:
            raise self._unknown(session_id)
        return session

    def _may_be_there(self, session_id: str) -> bool:
        """Whether a session that was not found may only not be known at this time."""
        store = self._store()
        return store.recovering and not store.is_gone(session_id)

    def _unknown(self, session_id: str) -> SessionStatusError:
        """The error for a session that is not there; while it may only not be known, that is not said."""
        if self._may_be_there(session_id):
            return StoreUnavailable(
                "The session is not known at this time. Try again in a moment.", sessionId=session_id
            )
        return NotFound("Session not found", sessionId=session_id)

    def update(
        self, session_id: str, *, metadata: Mapping[str, Json | None] | None = None, language: str | None = None
    ) -> Session:
        """Merge metadata (None removes a key) and set the language. Raises NotFound, InvalidValue."""
        check_id(session_id, "sessionId")
        if not metadata and language is None:
            return self._known(session_id)
        fields: dict[str, str | None] = {
            f"meta:{name}": None if value is None else to_json(value)
            for name, value in _mapping(metadata or {}, "metadata").items()
        }
        if language is not None:
            fields["language"] = _short(language, "language")
        if not self._store().update_session(check_id(session_id, "sessionId"), fields):
            raise self._unknown(session_id)
        return self._known(session_id)

    def delete(self, session_id: str) -> bool:
        """Delete the session; its tasks are told to stop, its followers get their end. False when there was none.

        Raises StoreUnavailable as `get` does.
        """
        deleted = self._store().delete_session(check_id(session_id, "sessionId"))
        if not deleted and self._may_be_there(session_id):
            raise self._unknown(session_id)
        return deleted

    def count(self, session_id: str, **amounts: int) -> None:
        """Add whole numbers to the session's `counters`, by name; exact, whichever processes count.

        Costs no call to the store: what was counted is written with the beat. Of an unknown session nothing is kept.
        Raises InvalidValue.
        """
        for name, amount in amounts.items():
            check_id(name, "counter")
            if isinstance(amount, bool) or not isinstance(amount, int) or abs(amount) > MAX_AMOUNT:
                raise InvalidValue(f"{name} is counted in whole numbers up to {MAX_AMOUNT}, not {amount!r}.")
        self._tally(check_id(session_id, "sessionId"), {f"count:{name}": amount for name, amount in amounts.items()})

    def list(
        self,
        namespace_id: Any = UNSET,
        *,
        status: str | None = None,
        conversation_id: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> SessionPage:
        """Live sessions of a namespace, of one status (active, idle or completed) or conversation where it is given,
        newest activity first; `cursor` is the `next` of the page before.

        Where few are wanted, a page may be shorter than `limit`, even empty, and still have a next.
        Raises InvalidValue.
        """
        if status is not None and status not in tuple(SessionState):
            raise InvalidValue(f"A session's status is {', '.join(SessionState)}, not {status!r}.")

        def wanted(session: Session) -> bool:
            return status in (None, session.status) and conversation_id in (None, session.conversation_id)

        namespace = self._default_namespace() if namespace_id is UNSET else namespace_id
        return self._store().sessions(None if namespace is None else namespace_of(namespace), limit, cursor, wanted)

    # Turns

    def add_turn(self, session_id: str, role: str, content: str, **fields: Any) -> Turn:
        """Append one turn. Fields: sources, resolved_question, template_id, slots, results. Raises as add_turns."""
        return self.add_turns(session_id, [Turn(role, content, **fields)])[0]

    def add_turns(self, session_id: str, turns: Sequence[Turn]) -> Sequence[Turn]:
        """Append turns as one step; a user turn's slots merge into the session's (None clears one), its template is
        kept.

        Returns them with position and timestamp. Raises NotFound, and InvalidValue, also for more than 256 at once.
        """
        fields: dict[str, str | None] = {}
        ready = []
        for turn in turns:
            if turn.role not in ROLES:
                raise InvalidValue(
                    f"A turn's role is one of {', '.join(ROLES)}.", {"role": [f"Not one of {', '.join(ROLES)}."]}
                )
            if not isinstance(turn.content, str):
                raise InvalidValue("A turn's content is text.", {"content": ["Not a text."]})
            slots = _mapping(turn.slots, "slots")
            to_json([turn.content, turn.sources, turn.results, turn.resolved_question, turn.template_id])
            ready.append(replace(turn, slots=slots, turn_id=turn.turn_id or uuid4().hex))
            if turn.role == "user":
                for name, value in slots.items():
                    fields[f"slot:{name}"] = None if value is None else to_json(value)
                if turn.template_id is not None:
                    fields["template"] = turn.template_id
        stored = self._store().add_turns(check_id(session_id, "sessionId"), ready, fields)
        if stored is None:
            raise self._unknown(session_id)
        return stored

    def turns(self, session_id: str, *, limit: int | None = None, before: int | None = None) -> Sequence[Turn]:
        """The last turns (before a position), oldest first. Raises NotFound."""
        found = self._store().turns(check_id(session_id, "sessionId"), before, ALL if limit is None else limit)
        if found is None:
            raise self._unknown(session_id)
        return found

    def history(self, session_id: str, limit: int = HISTORY) -> Sequence[Mapping[str, str]]:
        """The last turns as `[{"role", "content"}]`, the resolved question where there is one: ready for a model's
        API."""
        return [
            {"role": turn.role, "content": turn.resolved_question or turn.content}
            for turn in self.turns(session_id, limit=limit)
        ]

    def previous_user_turn(self, session_id: str) -> Turn | None:
        """The last turn of the user, None without one. Raises NotFound."""
        before: int | None = None
        while turns := self.turns(session_id, limit=LOOKED_BACK, before=before):
            for turn in reversed(turns):
                if turn.role == "user":
                    return turn
            before = turns[0].position
        return None

    def slots(self, session_id: str) -> Mapping[str, Json]:
        """The session's current slots. Raises NotFound."""
        return self._known(check_id(session_id, "sessionId")).current_slots


def _mapping(value: Mapping[str, Json], name: str) -> Mapping[str, Json]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InvalidValue(f"{name} is an object.", {name: ["Not an object."]})
    if len(value) > NAMES:
        message = f"At most {NAMES} names."
        raise InvalidValue(f"{name}: {message}", {name: [message]})
    to_json(value)
    return dict(value)


def _short(value: str | None, name: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= MAX_TEXT:
        message = f"Not a text of 1 to {MAX_TEXT} printable characters."
        raise InvalidValue(f"{name}: {message}", {name: [message]})
    return value
