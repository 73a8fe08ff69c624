"""A store in front of another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..models import Cursor, Session, Task, Turn
from .base import (
    Answer,
    Append,
    Beat,
    Begun,
    Counters,
    OnWakeup,
    Page,
    SessionDraft,
    SessionPage,
    Store,
    Tally,
    TaskDraft,
    TaskRef,
    Wakeups,
    Wanted,
)
from .codec import Snapshot


class StoreWrapper(Store):
    """Hands everything on to the store behind it; whoever extends it changes what it must."""

    def __init__(self, store: Store) -> None:
        self.name = store.name
        self.limits = store.limits
        self.counting = store.counting
        self._store: Store = store

    def ping(self) -> None:
        self._store.ping()

    def active_sessions(self) -> int | None:
        return self._store.active_sessions()

    def totals(self) -> Counters:
        return self._store.totals()

    def snapshot(self, conversation_id: str) -> Snapshot:
        return self._store.snapshot(conversation_id)

    def create_session(self, draft: SessionDraft, own: bool = True) -> None:
        self._store.create_session(draft, own)

    def session(self, session_id: str) -> Session | None:
        return self._store.session(session_id)

    def sessions(
        self, namespace_id: str | None, limit: int, after: str | None, wanted: Wanted | None = None
    ) -> SessionPage:
        return self._store.sessions(namespace_id, limit, after, wanted)

    def update_session(self, session_id: str, fields: Mapping[str, str | None]) -> bool:
        return self._store.update_session(session_id, fields)

    def touch(self, session_ids: Sequence[str]) -> Sequence[bool | Exception]:
        return self._store.touch(session_ids)

    def tally(self, tallies: Sequence[Tally]) -> Sequence[bool | Exception]:
        return self._store.tally(tallies)

    def delete_session(self, session_id: str) -> bool:
        return self._store.delete_session(session_id)

    def add_turns(
        self, session_id: str, turns: Sequence[Turn], fields: Mapping[str, str | None]
    ) -> Sequence[Turn] | None:
        return self._store.add_turns(session_id, turns, fields)

    def turns(self, session_id: str, before: int | None, limit: int) -> Sequence[Turn] | None:
        return self._store.turns(session_id, before, limit)

    def begin(self, session: SessionDraft, task: TaskDraft, if_running: str = "allow", own: bool = True) -> Begun:
        return self._store.begin(session, task, if_running, own)

    def claim(self, ref: TaskRef, token: str) -> Begun | None:
        return self._store.claim(ref, token)

    def claimed(self, ref: TaskRef, token: str) -> Begun | None:
        return self._store.claimed(ref, token)

    def find_task(self, task_id: str) -> Task | None:
        return self._store.find_task(task_id)

    def append(self, appends: Sequence[Append]) -> Sequence[Answer | Exception]:
        return self._store.append(appends)

    def beat(self, beats: Sequence[Beat]) -> Sequence[Answer | Exception]:
        return self._store.beat(beats)

    def cancel(self, ref: TaskRef) -> Task | None:
        return self._store.cancel(ref)

    def task(self, session_id: str, task_id: str) -> Task | None:
        return self._store.task(session_id, task_id)

    def tasks(self, session_id: str, limit: int) -> Sequence[Task] | None:
        return self._store.tasks(session_id, limit)

    def events(self, ref: TaskRef, after: Cursor, limit: int) -> Page | None:
        return self._store.events(ref, after, limit)

    def result(self, session_id: str, task_id: str) -> str | None:
        return self._store.result(session_id, task_id)

    def traceback(self, session_id: str, task_id: str) -> str | None:
        return self._store.traceback(session_id, task_id)

    def record_duration(self, type: str, duration: int) -> None:
        self._store.record_duration(type, duration)

    def wakeups(self, on_wakeup: OnWakeup) -> Wakeups:
        return self._store.wakeups(on_wakeup)

    def hinted(self, ref: TaskRef, hint: bytes) -> tuple[Page, Cursor] | None:
        return self._store.hinted(ref, hint)

    def session_channel(self, conversation_id: str, session_id: str) -> str:
        return self._store.session_channel(conversation_id, session_id)

    def channel(self, ref: TaskRef) -> str:
        return self._store.channel(ref)

    def cancel_channel(self, ref: TaskRef) -> str:
        return self._store.cancel_channel(ref)

    @property
    def recovering(self) -> bool:
        return self._store.recovering

    @property
    def degraded(self) -> bool:
        return self._store.degraded

    def is_gone(self, session_id: str) -> bool:
        return self._store.is_gone(session_id)

    def can_follow(self, ref: TaskRef) -> bool:
        return self._store.can_follow(ref)

    def hand_over(self, timeout: float) -> bool:
        return self._store.hand_over(timeout)

    def close(self) -> None:
        self._store.close()
