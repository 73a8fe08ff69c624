"""What is known of sessions that a store had when it was last asked."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...models import Session, Task, TaskState, to_json
from ..base import Begun, End
from ..codec import OF_ONE_ATTEMPT, VERSION, SessionRecord, TaskRecord, is_live_at, session_fields

KEPT_TURNS = 64
"""How many of a session's last turns are known at most."""

KEPT_TASKS = 64
"""How many tasks of a conversation that do not live are known at least; at most there are twice as many of all."""


@dataclass
class KnownSession:
    """A session as it was last seen; without its fields and `turn_count` only its record was.

    `seen` is what the fields are made of once they are asked for, which they seldom are.
    """

    record: SessionRecord
    turn_count: int | None = None
    seen: Session | None = None
    made: dict[str, str] | None = None

    @property
    def fields(self) -> dict[str, str] | None:
        if self.made is None and self.seen is not None:
            self.made = fields_of(self.seen)
        return self.made

    @property
    def is_whole(self) -> bool:
        return self.fields is not None and self.turn_count is not None


@dataclass
class KnownConversation:
    """The sessions of a conversation, their tasks, the tasks that idempotency keys started, as (task, session), and
    whether another program was at work in it. Tasks whose lease had run out when they were last seen are `lost`;
    those that this process works on are `ours`, each under its epoch."""

    sessions: dict[str, KnownSession] = field(default_factory=dict)
    tasks: dict[str, TaskRecord] = field(default_factory=dict)
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    others_run: bool = False
    lost: set[str] = field(default_factory=set)
    ours: dict[str, int] = field(default_factory=dict)
    looks_at: int = 0

    def saw_task(self, task_id: str, record: TaskRecord, *, lost: bool = False) -> None:
        """A task, unless it was read before it was known to have gone on."""
        before = self.tasks.get(task_id)
        if before is not None and is_past(record, before):
            return
        self.tasks[task_id] = record
        self.lost.discard(task_id)
        if lost:
            self.lost.add(task_id)

    def saw_key(self, key: str, task_id: str, record: TaskRecord) -> None:
        """A key that has started a task: of several it is the latest one's."""
        first = self.keys.get(key)
        known = self.tasks.get(first[0]) if first is not None else None
        if known is None or known["epoch"] <= record["epoch"]:
            self.keys.pop(key, None)  # the latest are last
            self.keys[key] = task_id, record["session"]

    def forget(self, session_id: str) -> None:
        """A session, its tasks and keys."""
        self.sessions.pop(session_id, None)
        self.tasks = {task_id: task for task_id, task in self.tasks.items() if task["session"] != session_id}
        self.keys = {key: used for key, used in self.keys.items() if used[1] != session_id}
        self._keep_marks()

    def expired(self, now: int) -> list[str]:
        """The sessions that have expired, looked for at most once in a minute."""
        if now < self.looks_at:
            return []
        self.looks_at = now + 60_000
        return [session_id for session_id, session in self.sessions.items() if now >= session.record["expires"]]

    def trim(self, now: int) -> None:
        """Once there are too many tasks or keys, keep tasks that live and the latest others, with their keys."""
        if max(len(self.tasks), len(self.keys)) <= 2 * KEPT_TASKS:
            return
        live = {task_id for task_id, task in self.tasks.items() if is_live_at(task, now)}
        others = sorted(self.tasks.keys() - live, key=lambda task_id: self.tasks[task_id]["epoch"])
        kept = live.union(others[-KEPT_TASKS:])
        self.tasks = {task_id: task for task_id, task in self.tasks.items() if task_id in kept}
        latest = set(list(self.keys)[-KEPT_TASKS:])
        self.keys = {key: used for key, used in self.keys.items() if used[0] in kept or key in latest}
        self._keep_marks()

    def _keep_marks(self) -> None:
        self.lost &= self.tasks.keys()
        self.ours = {task_id: epoch for task_id, epoch in self.ours.items() if task_id in self.tasks}

    def copy(self) -> KnownConversation:
        return KnownConversation(
            *(dict(self.sessions), dict(self.tasks), dict(self.keys), self.others_run, set(self.lost), dict(self.ours))
        )


def is_past(record: TaskRecord, known: TaskRecord) -> bool:
    """Whether a record is of a later time than one that was read."""
    if record["epoch"] != known["epoch"]:
        return record["epoch"] < known["epoch"]
    return TaskState(record["state"]).live and not TaskState(known["state"]).live


def fields_of(session: Session) -> dict[str, str]:
    """A session's fields as a store keeps them."""
    fields = session_fields(session.language, session.device_type, session.client_version, session.metadata)
    fields.update({f"slot:{name}": to_json(value) for name, value in session.current_slots.items()})
    fields.update({f"count:{name}": str(amount) for name, amount in session.counters.items()})
    counts = {
        "accesses": session.access_count,
        "audio_received": session.audio_chunks_received,
        "audio_processed": session.audio_chunks_processed,
        "accessed": session.last_accessed or 0,
    }
    fields.update({name: str(count) for name, count in counts.items() if count})
    if session.current_template_id is not None:
        fields["template"] = session.current_template_id
    return fields


def record_of(task: Task, token: str) -> TaskRecord:
    """The record that a task was read from, but for what only its store needs."""
    state = TaskState.RUNNING if task.state is TaskState.LOST else task.state
    record: TaskRecord = {
        "v": VERSION,
        "session": task.session_id,
        "type": task.type,
        "wire": task.wire,
        "token": token,
        "state": state.value,
        "attempt": task.attempt,
        "epoch": task.epoch,
        "tail": task.tail,
        "created": task.created_at,
        "updated": task.updated_at,
        "activity": task.updated_at,
        "deadline": task.deadline or task.finished_at or task.updated_at,
        "result": task.result_available,
    }
    said = {
        "started": task.started_at,
        "finished": task.finished_at if state.terminal else None,
        "cancel": task.cancel_requested_at,
        "current": task.progress.current,
        "total": task.progress.total,
        "note": task.progress.message,
        "error_type": task.error_type,
        "error_message": task.error_message,
    }
    record.update({name: value for name, value in said.items() if value is not None})  # type: ignore[typeddict-item]
    return record


def record_of_claim(before: TaskRecord, token: str, begun: Begun, lease: int) -> TaskRecord:
    """The record of a task that a worker, by its token, has taken up; `lease` is in ms."""
    claimed = before.copy()
    for name in OF_ONE_ATTEMPT if before["epoch"] < begun.epoch else ("queued", "healed"):
        claimed.pop(name, None)  # type: ignore[misc]
    now = begun.now
    claimed.update({"token": token, "attempt": begun.attempt, "epoch": begun.epoch, "tail": begun.tail})
    claimed.update({"updated": now, "activity": now, "deadline": now + lease, "renewed": now})
    if begun.stopping:
        claimed["state"] = "pending"
    else:
        claimed["state"] = "running"
        claimed.setdefault("started", now)
    return claimed


def record_of_end(before: TaskRecord, end: End, now: int) -> TaskRecord:
    """The record of a task whose attempt has ended."""
    record = before.copy()
    record.update({"state": end.state, "updated": now, "activity": now})
    if end.state == "pending":  # the next attempt waits
        for name in OF_ONE_ATTEMPT:
            record.pop(name, None)  # type: ignore[misc]
        record.update({"attempt": before["attempt"] + 1, "queued": True, "deadline": now + (end.wait or 0)})
    else:
        record.update({"finished": now, "result": end.result is not None})
        record.setdefault("started", now)
        if end.error_type is not None:
            record["error_type"] = end.error_type
        if end.error_message is not None:
            record["error_message"] = end.error_message
    return record
