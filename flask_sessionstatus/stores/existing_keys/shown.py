"""A session of another program as its keys showed it at one moment, and what that means here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...models import ORIGIN, Cursor, Event, TaskState
from ..base import Limits
from ..codec import VERSION, SessionRecord, TaskRecord
from .entries import WAITING, Decoder, Entry, ending_of, state_of
from .templates import Place

SILENCE = 120_000
"""Ms: for so long after its last entry a session without a status is taken for one that runs."""


@dataclass(frozen=True)
class Shown:
    """What the keys of a session showed at `now` (Unix ms). `left` is what the stream has left to live (ms), None
    without an end; `lost_head` whether entries before its first are gone; None: the server does not tell."""

    place: Place
    now: int
    first: Entry | None
    last: Entry | None
    tail: Cursor
    left: int | None
    lost_head: bool | None
    word: str | None
    cancelled_at: int | None
    entries: Sequence[Entry] = ()
    runs_for: int | None = None

    @property
    def has_lost_head(self) -> bool:
        """Where the server does not tell: a stream that begins in the middle of an answer has lost its begin."""
        if self.lost_head is None:
            return self.first is not None and self.first.type == "chunk"
        return self.lost_head

    def state(self) -> TaskState:
        """The state by the last entry's `end`, else by the status, else by the stream: it runs as long as it speaks."""
        if self.last is not None and self.last.is_end:
            return ending_of(self.last).state
        told = state_of(self.word)
        if told is not None and told.terminal:
            return told
        if told is TaskState.RUNNING:
            return told
        waits = self.last.type in WAITING if self.last is not None else told is TaskState.PENDING
        return TaskState.PENDING if waits else TaskState.RUNNING

    @property
    def is_told_to_run(self) -> bool:
        told = state_of(self.word)
        return told is not None and told.live

    @property
    def may_still_end(self) -> bool:
        """Whether the status says that it is over, and the stream does not (yet)."""
        return self.state().terminal and not (self.last is not None and self.last.is_end)

    def session_record(self, started: int, limits: Limits) -> SessionRecord:
        left = limits.session_ttl if self.left is None else self.left
        return {"v": VERSION, "created": started, "expires": self.now + left, "activity": self.activity}

    @property
    def activity(self) -> int:
        return self.tail.epoch

    def asked(self, at: int) -> Shown:
        """The same, asked to stop."""
        return replace(self, cancelled_at=at)

    def still_running(self, left: int) -> Shown:
        """The same, as if it ran for `left` ms more."""
        return replace(self, word="running", runs_for=left)

    def task_record(self, started: int, limits: Limits) -> TaskRecord:
        state = self.state()
        tail = self.tail if self.last is not None else ORIGIN
        lease = limits.lease if self.runs_for is None else self.runs_for
        record: TaskRecord = {
            **{"v": VERSION, "session": self.place.session_id, "type": "generation", "wire": "sse"},
            "state": state.value,
            "attempt": 1,
            "epoch": tail.epoch,
            "tail": tail.number,
            "created": started,
            "updated": self.activity,
            "activity": self.activity,
            "deadline": self.now + lease if self.is_told_to_run else self.activity + SILENCE,
            "foreign": True,
        }
        if state is not TaskState.PENDING:
            record["started"] = started
        if state.terminal:
            record["finished"] = self.activity
        if self.cancelled_at is not None:
            record["cancel"] = self.cancelled_at
        if self.last is not None and self.last.is_end and state is not TaskState.COMPLETED:
            ending = ending_of(self.last)
            if ending.error_type is not None:
                record["error_type"] = ending.error_type
            if ending.message is not None:
                record["error_message"] = ending.message
        return record

    def events(self, after: Cursor, decoder: Decoder) -> list[Event]:
        """The entries after a cursor as events. Ids have holes, so each says itself whether something is missing
        before it: only the first that is left can, once the head is gone."""
        events = []
        for entry in self.entries:
            is_first = self.first is not None and entry.cursor == self.first.cursor
            lost = is_first and (self.has_lost_head or (self.lost_head is None and after != ORIGIN))
            type, data = decoder.event(entry, self.place)
            events.append(Event(entry.cursor, type, data, follows=not lost))
        return events
