"""What is known in an outage of how far the store that is away has everything, and what it is to get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from ..base import Tally, TaskRef
from ..carried import CarriedSession
from ..codec import TaskRecord

COUNTED = ("accesses", "accessed", "audio_received", "audio_processed")


@dataclass
class Book:
    """What the other store has of a session, as far as is known here; of one made here, what it was made with.

    `own`: it was made for an owner of its conversation. `turns` is the position up to which it has them, `tasks` are
    their records as they were handed over; the events of tasks that are `elsewhere` are not here (`ours` will be), and
    `stopping` are those of them whose stop it knows of. Of the `tallies` so many were `tried`. `first` are fields,
    turns and stops as they were before anything was `handed` over; in `doubt` the other store may have lost what it
    got. It has turns that are `unseen` here, though they are among its last; of a `partial` one only the status was
    known.
    """

    there: bool = False
    made: bool = False
    own: bool = False
    fields: dict[str, str] = field(default_factory=dict)
    turns: int = 0
    tasks: dict[str, TaskRecord] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)
    ours: set[str] = field(default_factory=set)
    stopping: set[str] = field(default_factory=set)
    tallies: list[Tally] = field(default_factory=list)
    tried: int = 0
    first: tuple[Mapping[str, str], int, Set[str]] | None = None
    handed: bool = False
    doubt: bool = False
    unseen: bool = False
    partial: bool = False


class Deleted(NamedTuple):
    """A session that was deleted in the outage; after `until` (ms), as far as is known here, nothing can bring it back,
    or a task of it. `there`: the other store has it."""

    session_id: str
    conversation_id: str
    namespace_id: str | None
    task_ids: Sequence[str]
    until: int
    there: bool


class Bundle(NamedTuple):
    """What is to be handed over of a session, but for its tasks' events.

    `fields` are all of them as they are, `position` is behind its last turn.
    """

    session: CarriedSession
    fields: Mapping[str, str]
    position: int
    tasks: Sequence[TaskRef]
    stops: Sequence[TaskRef]
    tallies: Sequence[Tally]


def is_counted(name: str) -> bool:
    """Whether a field is what tallies add up to: these are handed over by themselves."""
    return name in COUNTED or name.startswith(("count:", "tally:"))
