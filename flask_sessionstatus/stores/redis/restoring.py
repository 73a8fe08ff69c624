"""Taking over what another store held while this one was away. Every call may be repeated."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from ...errors import NotFound, SessionConflict
from ...models import Cursor
from ..base import Limits
from ..bounds import NAMES
from ..carried import CarriedSession, CarriedTask
from ..codec import encode_turn
from .calls import Calls
from .directory import Directory, Kept
from .keys import Keys, member, quoted
from .node import Argument
from .outages import Outages

log = logging.getLogger("flask_sessionstatus")

MAX_BURIED = 256
TOO_MANY_NAMES = (
    "Session %s got names of metadata and slots here and in Redis while Redis was away: %s of them are dropped, above "
    "the maximum of %s."
)


class Restoring:
    """The steps of a handing over, each one script in the slot of its conversation. They raise StoreUnavailable."""

    def __init__(self, calls: Calls, keys: Keys, directory: Directory, limits: Limits, outages: Outages) -> None:
        self._outages = outages
        self._calls = calls
        self._keys = keys
        self._directory = directory
        self._limits = limits

    @property
    def replacements(self) -> int:
        """How often a server turned out to be another one, which may not have what was handed over before."""
        return self._outages.replacements

    def answer(self) -> None:
        """Return if every server answers."""
        self._calls.reach()

    def now(self) -> int:
        """The time (Unix ms) at one of the servers."""
        (seconds, micros), _ = self._calls.script("status", self._keys.conversation("-"))
        return int(seconds) * 1000 + int(micros) // 1000

    def session(self, carried: CarriedSession, *, placed: bool = False) -> str:
        """Take over a session: `stored`, `absent` (it is to be sent whole), `deleted`, or `conflict`: it is somebody
        else's. `placed`: its name and its places were taken before; they are only prolonged."""
        draft, left = carried.draft, max(1, carried.left)
        try:
            if not placed:
                self._directory.take(draft, left, None)
        except SessionConflict:
            return "conflict"
        except NotFound:
            self.refuse(draft.session_id, draft.conversation_id, ())
            return "deleted"
        fields = [part for pair in (carried.fields or {}).items() for part in pair]
        sets = [part for pair in carried.sets.items() for part in pair]
        turns = [
            part for turn in carried.turns for part in (quoted(turn.turn_id or "-"), turn.timestamp, encode_turn(turn))
        ]
        verdict, *rest = self._calls.script(
            "restore",
            self._keys.conversation(draft.conversation_id),
            quoted(draft.session_id),
            _session_json(carried),
            *(self._limits.max_age or 0, self._limits.max_turns, int(carried.own), carried.first),
            *(
                len(fields) // 2,
                *fields,
                len(carried.sets),
                *sets,
                len(carried.removals),
                *carried.removals,
                len(carried.turns),
                *turns,
            ),
        )
        if verdict == b"stored":
            namespace = rest[2].decode() or None
            self._directory.remember(draft.session_id, draft.conversation_id)
            kept = Kept(draft.session_id, draft.conversation_id, namespace, int(rest[0]), int(rest[1]))
            self._directory.keep([kept])
            if rest[3]:
                log.warning(TOO_MANY_NAMES, draft.session_id[:8], rest[3], NAMES)
        elif verdict == b"conflict":
            self._directory.give_back(draft, rest[0].decode() or None, exists=True)
        elif verdict == b"deleted":
            self._directory.leave(draft.session_id, draft.conversation_id, draft.namespace_id)
        return str(verdict.decode())

    def task(self, carried: CarriedTask) -> tuple[str, Cursor]:
        """Take over events of a task, and its record once they are complete; with the cursor of the last event here.

        `stored`, `need` (those after that one), `closed` (it has ended here), `fenced` (a newer attempt is here),
        `deleted`, or `missing`: its session is not here.
        """
        ref, record = carried.ref, carried.record
        if record.get("queued"):
            place = member(ref.session_id, ref.conversation_id)
            life = max(1, carried.left) + self._limits.session_ttl
            self._calls.command("SET", self._keys.task(ref.task_id), place, "PX", life)
        events: list[Argument] = []
        for event in carried.events:
            events += (str(event.cursor), event.type, event.json)
        verdict, last = self._calls.script(
            "restore_task",
            self._keys.conversation(ref.conversation_id),
            *(quoted(ref.session_id), quoted(ref.task_id), _task_json(carried), carried.left, int(carried.complete)),
            carried.now if carried.now is not None else "",
            *(self._limits.max_events, carried.result or "", carried.traceback or ""),
            quoted(carried.idempotency_key) if carried.idempotency_key is not None else "",
            *(self._limits.session_ttl, str(carried.after), len(carried.events), *events),
        )
        return verdict.decode(), Cursor.parse(last.decode())

    def bury(
        self, session_id: str, conversation_id: str, namespace_id: str | None, task_ids: Sequence[str], *, life: int
    ) -> None:
        """Delete a session, if it is there, and let nothing bring it back, or a task of it, for a TTL and for `life`
        ms."""
        key = self._keys.conversation(conversation_id)
        self._directory.doubt(session_id, conversation_id, namespace_id)
        self._calls.script("delete", key, quoted(session_id), self._limits.session_ttl)
        self._bury(session_id, key, task_ids, life=life)
        self._directory.leave(session_id, conversation_id, namespace_id)

    def refuse(self, session_id: str, conversation_id: str, task_ids: Sequence[str]) -> None:
        """Let no writer that goes on make a session here that was not taken over, as if it had been lost here."""
        self._bury(session_id, self._keys.conversation(conversation_id), task_ids, spare=True)

    def _bury(self, session_id: str, key: str, task_ids: Sequence[str], *, life: int = 0, spare: bool = False) -> None:
        life = max(life, self._limits.session_ttl)
        for start in range(0, max(1, len(task_ids)), MAX_BURIED):
            some = [quoted(task_id) for task_id in task_ids[start : start + MAX_BURIED]]
            self._calls.script("bury", key, quoted(session_id), life, int(spare), *some)


def _session_json(carried: CarriedSession) -> str:
    record: dict[str, Any] = {
        "ns": carried.draft.namespace_id,
        "key": carried.draft.key,
        "created": carried.created_at,
        "activity": carried.activity,
        "socket": carried.draft.for_socket or None,
        "left": max(0, carried.left),
        "now": carried.now,
    }
    return json.dumps({name: value for name, value in record.items() if value is not None}, ensure_ascii=False)


def _task_json(carried: CarriedTask) -> str:
    """The record as it lies here: ids are quoted, and Lua would make an object of an empty list."""
    record = {name: value for name, value in carried.record.items() if value is not None and value != []}
    record["session"] = quoted(carried.ref.session_id)
    if "replaces" in record:
        record["replaces"] = [quoted(task_id) for task_id in carried.record["replaces"]]
    return json.dumps(record, ensure_ascii=False)
