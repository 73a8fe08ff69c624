"""What the outbox of a process that ends leaves to that of another one, as text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ..stores.base import Change, End


@dataclass(frozen=True)
class Rest:
    """A task in an outbox: its events behind number `floor`, how far the store has them, and how it ended.

    `duration` is in ms.
    """

    floor: int
    stored: int
    events: Sequence[tuple[str, str]]
    change: Change | None
    end: End | None
    duration: int | None

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Rest:
        """Read what `str` gave. Raises ValueError where the end of the text is missing."""
        said = json.loads(text)
        change, end = said["change"], said["end"]
        return cls(
            said["floor"],
            said["stored"],
            [(type, data) for type, data in said["events"]],
            Change(**change) if change is not None else None,
            End(**end) if end is not None else None,
            said["duration"],
        )
