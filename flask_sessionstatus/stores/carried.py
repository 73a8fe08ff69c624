"""What one store hands over to another: a session and a task of it, as they stood at one moment.

`now` (Unix ms) is what the clock shows that their times are by, where that was never set by the other store's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..models import Cursor, Event, Turn
from .base import SessionDraft, TaskRef
from .codec import TaskRecord


@dataclass(frozen=True)
class CarriedSession:
    """A session and what was written of it: fields set and removed, turns with their times, the first at position
    `first`.

    `left` (ms) is until its expiry, `activity` Unix ms. One with `fields`, all that it has, can be made from this; with
    `own` only where its conversation belongs to nobody else.
    """

    draft: SessionDraft
    created_at: int
    activity: int
    left: int
    sets: Mapping[str, str]
    removals: Sequence[str]
    turns: Sequence[Turn]
    first: int
    fields: Mapping[str, str] | None = None
    own: bool = False
    now: int | None = None


@dataclass(frozen=True)
class CarriedTask:
    """A task's record, and events of it in order, those `after` a cursor; `complete`: the record stands behind them.

    `left` (ms) is what is left of its lease.
    """

    ref: TaskRef
    record: TaskRecord
    left: int
    after: Cursor
    events: Sequence[Event]
    complete: bool
    result: str | None = None
    traceback: str | None = None
    idempotency_key: str | None = None
    now: int | None = None
