"""Models ↔ versioned JSON. A record is what a store keeps; a model is what it means at one moment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, TypedDict

from ..errors import RecordUnreadable
from ..estimate import from_history, from_progress
from ..models import Json, Progress, Session, SessionState, Task, TaskState, Turn, to_json

VERSION = 1


class SessionRecord(TypedDict, total=False):
    """The moving part of a session. Times are Unix ms; `socket` marks one made for a socket that nobody used yet.

    `kept` is until when Redis keeps its tasks at least; `key` is the digest of its namespace key.
    """

    v: int
    ns: str
    created: int
    expires: int
    kept: int
    activity: int
    socket: bool
    key: str


class TaskRecord(TypedDict, total=False):
    """All that is kept of a task but its events and its result. Times are Unix ms, `past` and `remaining` are ms.

    `renewed` is when the deadline was set. `queued` marks a task that waits for a worker, `healed` one that was made
    again while it did; `ticket` is until when its ticket may make it again, `replaces` are the ids of tasks that were
    asked to stop for it, `key` is the idempotency key that started it. A `foreign` one is another program's, and never
    stored.
    """

    v: int
    session: str
    type: str
    wire: str
    token: str
    state: str
    attempt: int
    epoch: int
    tail: int
    created: int
    updated: int
    activity: int
    started: int
    finished: int
    deadline: int
    renewed: int
    cancel: int
    forced: bool
    queued: bool
    healed: bool
    key: str
    ticket: int
    replaces: list[str]
    current: float
    total: float
    note: str
    remaining: int
    remaining_at: int
    past: list[int]
    result: bool
    result_expires: int
    error_type: str
    error_message: str
    foreign: bool


OF_ONE_ATTEMPT = (
    *("started", "finished", "forced", "queued", "healed", "current", "total", "note", "remaining", "remaining_at"),
    *("result", "result_expires", "error_type", "error_message"),
)
"""What the next attempt of a task does not take over."""

_read = json.JSONDecoder().raw_decode

_LIVE = ("running", "pending")

_SESSION_KEYS = {"created", "expires", "activity"}
_TASK_KEYS = {"session", "state", "attempt", "epoch", "tail", "created", "updated", "activity", "deadline"}


def _decode(text: bytes, keys: Set[str], name: str) -> Any:
    try:
        record = json.loads(text.decode())
        if record["v"] == VERSION and record.keys() >= keys:
            return record
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise unreadable(name)


def unreadable(name: str) -> RecordUnreadable:
    """The error for a record, by the name of its field; as in the log, an id is cut to 8 characters."""
    kind, _, record_id = name.partition(":")
    return RecordUnreadable(f"The stored record of {kind} {record_id[:8]} cannot be read.".replace("  ", " "))


def decode_fields(fields: Sequence[bytes]) -> Iterable[tuple[str, Any]]:
    """The names and records of a flat list of fields and their JSON, all read at once: status reads live from this.

    Of sessions and tasks only; where one cannot be read, its RecordUnreadable stands in its place.
    """
    names = [name.decode() for name in fields[0::2]]
    records: Any = None
    try:
        records = _read(f"[{b','.join(fields[1::2]).decode()}]")[0]
    except (ValueError, RecursionError):
        pass
    if records is None or len(records) != len(names):
        records = [None] * len(names)
    for name, record, text in zip(names, records, fields[1::2]):
        keys = _TASK_KEYS if name.startswith("task:") else _SESSION_KEYS if name.startswith("session:") else None
        if keys is not None:
            try:
                readable = type(record) is dict and record["v"] == VERSION and record.keys() >= keys
                yield name, record if readable else _decode(text, keys, name)
            except (KeyError, RecordUnreadable):
                yield name, unreadable(name)


def decode_task(text: bytes, name: str) -> TaskRecord:
    """Read a task's record. Raises RecordUnreadable, naming `name`."""
    record: TaskRecord = _decode(text, _TASK_KEYS, name)
    return record


def state_at(record: TaskRecord, now: int, grace: int = 0) -> TaskState:
    """The state of a task at `now`: a live one whose lease ran out is `lost`, or `cancelled` where that was asked for.

    `grace` (ms) is how much longer an expired lease is taken as live.
    """
    state = TaskState(record["state"])
    if state.live and not is_live_at(record, now, grace):
        return TaskState.CANCELLED if "cancel" in record else TaskState.LOST
    return state


def is_live_at(record: TaskRecord, now: int, grace: int = 0) -> bool:
    """Whether a task is pending or running under a live lease at `now`."""
    return record["state"] in _LIVE and now < record["deadline"] + grace


def bound(record: TaskRecord, now: int) -> bool:
    """Let the deadline of a live task be one lease from `now` if it was set before the clock jumped back; whether it
    was."""
    renewed = record.get("renewed", now)
    if record["state"] not in _LIVE or renewed <= now:
        return False
    record["deadline"] += now - renewed
    record["renewed"] = now
    return True


def estimate_at(record: TaskRecord, state: TaskState, now: int) -> tuple[int | None, str | None]:
    """The estimated completion of a task at `now` and its basis (`progress`, `history`), or two Nones."""
    if state.terminal:
        return record.get("finished", record["deadline"]), None
    if state is not TaskState.RUNNING:
        return None, None
    if "remaining" in record:
        return from_progress(record["remaining"], record["remaining_at"], now), "progress"
    past = from_history(record.get("past") or [], record.get("started", record["created"]), now)
    return past, "history" if past is not None else None


def task_at(
    record: TaskRecord, task_id: str, conversation_id: str, namespace_id: str | None, now: int, grace: int = 0
) -> Task:
    """The task that a record means at `now`."""
    state = state_at(record, now, grace)
    estimate, basis = estimate_at(record, state, now)
    ended = state.terminal or state is TaskState.LOST
    return Task(
        task_id=task_id,
        session_id=record["session"],
        conversation_id=conversation_id,
        namespace_id=namespace_id,
        type=record["type"],
        state=state,
        attempt=record["attempt"],
        epoch=record["epoch"],
        tail=record["tail"],
        created_at=record["created"],
        updated_at=record["updated"],
        started_at=record.get("started"),
        finished_at=record.get("finished", record["deadline"]) if ended else None,
        deadline=None if state.terminal else record["deadline"],
        progress=Progress(record.get("current"), record.get("total"), record.get("note")),
        estimated_completion=estimate,
        estimate_basis=basis,
        cancel_requested_at=record.get("cancel"),
        result_available=has_result(record, now),
        error_type=record.get("error_type"),
        error_message=record.get("error_message"),
        wire=record["wire"],
        foreign=record.get("foreign", False),
    )


def has_result(record: TaskRecord, now: int) -> bool:
    """Whether a task has a result that has not had its time at `now`."""
    return record.get("result", False) and now < record.get("result_expires", now + 1)


class Snapshot:
    """What a store knows of one conversation at one moment: `now` (Unix ms), its live sessions and their tasks, by
    id."""

    __slots__ = ("conversation_id", "grace", "now", "sessions", "tasks")

    def __init__(
        self,
        conversation_id: str,
        now: int,
        sessions: Mapping[str, SessionRecord],
        tasks: Mapping[str, TaskRecord],
        grace: int = 0,
    ) -> None:
        self.conversation_id = conversation_id
        self.now = now
        self.grace = grace
        self.sessions = sessions
        self.tasks = tasks

    def only(self, session_ids: Iterable[str]) -> Snapshot:
        """The same moment with these sessions alone."""
        sessions = {session_id: self.sessions[session_id] for session_id in session_ids}
        tasks = {task_id: task for task_id, task in self.tasks.items() if task["session"] in sessions}
        return Snapshot(self.conversation_id, self.now, sessions, tasks, self.grace)

    def own(self) -> Snapshot:
        """The same moment without other programs' sessions."""
        foreign = {task["session"] for task in self.tasks.values() if task.get("foreign")}
        return self.only(self.sessions.keys() - foreign) if foreign else self

    def task(self, task_id: str) -> Task:
        record = self.tasks[task_id]
        namespace = self.sessions[record["session"]].get("ns")
        return task_at(record, task_id, self.conversation_id, namespace, self.now, self.grace)

    def is_live(self, record: TaskRecord) -> bool:
        return is_live_at(record, self.now, self.grace)


def snapshot_of(
    conversation_id: str,
    now: int,
    sessions: Mapping[str, SessionRecord],
    tasks: Mapping[str, TaskRecord],
    grace: int = 0,
) -> Snapshot:
    """A snapshot without the sessions that have expired by `now`, nor their tasks."""
    alive = {sid: session for sid, session in sessions.items() if now < session["expires"]}
    return Snapshot(
        conversation_id, now, alive, {tid: task for tid, task in tasks.items() if task["session"] in alive}, grace
    )


def session_from(snapshot: Snapshot, session_id: str, fields: Mapping[str, str]) -> Session:
    """A session from the moving part in the snapshot and its other fields (see session_fields).

    What is counted of it are the fields `accesses`, `audio_received`, `audio_processed` and `count:<name>`.
    """
    record = snapshot.sessions[session_id]
    own = {tid: task for tid, task in snapshot.tasks.items() if task["session"] == session_id}
    latest = max(own, key=lambda tid: own[tid]["epoch"], default=None)
    task = snapshot.task(latest) if latest is not None else None
    pending = sum(snapshot.is_live(each) for each in own.values())
    activity = max([record["activity"], *(each["activity"] for each in own.values())])
    try:
        return Session(
            session_id=session_id,
            conversation_id=snapshot.conversation_id,
            namespace_id=record.get("ns"),
            key=record.get("key"),
            status=status_of(pending, task.state if task else None),
            created_at=record["created"],
            last_activity=activity,
            expires_at=record["expires"],
            language=fields["language"],
            device_type=fields.get("device"),
            client_version=fields.get("client"),
            metadata={name[5:]: json.loads(text) for name, text in fields.items() if name.startswith("meta:")},
            message_count=int(fields.get("turns", 0)),
            pending_tasks_count=pending,
            current_slots={name[5:]: json.loads(text) for name, text in fields.items() if name.startswith("slot:")},
            current_template_id=fields.get("template"),
            latest_task=task,
            last_accessed=int(fields["accessed"]) if "accessed" in fields else None,
            access_count=int(fields.get("accesses", 0)),
            audio_chunks_received=int(fields.get("audio_received", 0)),
            audio_chunks_processed=int(fields.get("audio_processed", 0)),
            counters={name[6:]: int(text) for name, text in fields.items() if name.startswith("count:")},
            seen_at=snapshot.now,
        )
    except (KeyError, ValueError) as error:
        raise RecordUnreadable("The stored record of the session cannot be read.", sessionId=session_id) from error


def status_of(live: int, latest: TaskState | None) -> SessionState:
    """A session's status on the wire from its number of live tasks and the state of its latest one."""
    if live:
        return SessionState.ACTIVE
    return SessionState.COMPLETED if latest is TaskState.COMPLETED else SessionState.IDLE


def session_fields(
    language: str, device_type: str | None, client_version: str | None, metadata: Mapping[str, Json]
) -> dict[str, str]:
    """The fields of a session that do not move by themselves, as text by name."""
    fields = {"language": language}
    if device_type is not None:
        fields["device"] = device_type
    if client_version is not None:
        fields["client"] = client_version
    return {**fields, **{f"meta:{name}": to_json(value) for name, value in metadata.items()}}


def encode_turn(turn: Turn) -> str:
    """A turn as JSON, without the position and time that the store gives it."""
    kept = {
        "v": VERSION,
        "role": turn.role,
        "content": turn.content,
        "sources": turn.sources,
        "resolved": turn.resolved_question,
        "template": turn.template_id,
        "slots": dict(turn.slots) or None,
        "results": turn.results,
    }
    return to_json({name: value for name, value in kept.items() if value is not None})


def decode_turn(text: bytes, turn_id: str, position: int, timestamp: int) -> Turn:
    """Read a turn. Raises RecordUnreadable."""
    record = _decode(text, {"role", "content"}, f"turn {position}")
    return Turn(
        role=record["role"],
        content=record["content"],
        position=position,
        timestamp=timestamp,
        turn_id=turn_id,
        sources=record.get("sources"),
        resolved_question=record.get("resolved"),
        template_id=record.get("template"),
        slots=record.get("slots") or {},
        results=record.get("results"),
    )
