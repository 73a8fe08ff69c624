"""What other programs write: entries as events, the words of their statuses as states, times as Unix ms."""

from __future__ import annotations

import json
import logging
import math
import re
import threading
from collections.abc import Hashable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

from cachetools import LRUCache

from ...models import RESERVED_EVENT_TYPES, Cursor, Json, TaskState, check_event_type, to_json
from ..base import Counting
from .templates import Place

log = logging.getLogger("flask_sessionstatus")

STATES: Mapping[str, TaskState] = {
    word: state
    for state, words in {
        TaskState.PENDING: "queued pending",
        TaskState.RUNNING: "running started",
        TaskState.COMPLETED: "completed success",
        TaskState.ERROR: "error failure failed",
        TaskState.CANCELLED: "cancelled canceled revoked",
    }.items()
    for word in words.split()
}
"""Their six words, and what Celery calls its states; in any case."""

NONE = "None"
DEFAULT_TYPE = "message"
AS_IS = "existing."
"""Before a type that means something else in our streams."""
JSON_SUFFIX = "_json"
LISTS = ("citations", "tool_calls")
"""A front end goes through these without looking whether they are there: without a value they are empty."""
CONTROL_FIELDS = ("type", "conversation_id", "run_id", "session_id", "created_at")
REMEMBERED = 4096
WAITING = ("queued", "pending")


class Entry(NamedTuple):
    """An entry of a stream: its id and its fields; `garbled` where some are no UTF-8: these bytes are shown as
    `\\xff`."""

    cursor: Cursor
    fields: Mapping[str, str]
    garbled: bool = False

    @classmethod
    def read(cls, raw: Any) -> Entry:
        """An entry as XRANGE and XINFO give it: its id and a flat list of fields."""
        key, flat = raw
        try:
            texts, garbled = [each.decode() for each in flat or ()], False
        except UnicodeDecodeError:
            texts, garbled = [_text(each) for each in flat], True
        return cls(cursor_of(key), dict(zip(texts[0::2], texts[1::2])), garbled)

    @property
    def type(self) -> str:
        return self.fields.get("type", DEFAULT_TYPE)

    @property
    def is_end(self) -> bool:
        return self.type == "end"

    @property
    def created_at(self) -> int | None:
        """When it was made, if its own `created_at` says so (Unix ms)."""
        return time_of(self.fields.get("created_at", ""))


class Ending(NamedTuple):
    """How a session ended, as its last entry says."""

    state: TaskState
    error_type: str | None
    message: str | None


def cursor_of(key: bytes) -> Cursor:
    ms, number = key.split(b"-")
    return Cursor(int(ms), int(number))


def state_of(word: str | None) -> TaskState | None:
    """The state that a raw status means; None for a word that is none of theirs."""
    return STATES.get(word.strip().lower()) if word is not None else None


def word_of(raw: bytes | str | None) -> str | None:
    """The word of a status: the text itself, a JSON text, or what a JSON object has as `status`."""
    if raw is None:
        return None
    text = _text(raw).strip()
    if text[:1] in ("{", '"'):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return text
        word = value.get("status") if isinstance(value, dict) else value
        return word if isinstance(word, str) else text
    return text


def ending_of(entry: Entry) -> Ending:
    """What an `end` entry says. One without a status is how a run ends that went well; a word that is none of theirs
    is an error of that name."""
    word = _known(entry.fields.get("status"))
    state = TaskState.COMPLETED if word is None else state_of(word)
    message = _known(entry.fields.get("message"))
    if state is None or not state.terminal:
        return Ending(TaskState.ERROR, word, message)
    return Ending(state, None, message)


def end_json(entry: Entry, task_id: str) -> str:
    """The data of the stream's end frame. No control frame has a key `message`: a page would show it as an answer."""
    ending = ending_of(entry)
    failed = ending.state is not TaskState.COMPLETED
    data: dict[str, Json] = {
        "state": ending.state.value,
        "errorType": ending.error_type,
        "errorMessage": ending.message if failed else None,
        "taskId": task_id,
    }
    if ending.message is not None:
        data["note"] = ending.message
    return to_json(data)


class Troubles:
    """What made no sense: each thing is counted once in this process, and each kind of trouble logged once."""

    def __init__(self, counting: Counting) -> None:
        self._counting = counting
        self._lock = threading.Lock()
        self._counted: LRUCache[tuple[str, Hashable], None] = LRUCache(REMEMBERED)
        self._told: set[str] = set()

    def note(self, sentence: str, about: Hashable) -> None:
        """Something of this kind, about a key or an entry."""
        with self._lock:
            if (sentence, about) in self._counted:
                return
            self._counted[sentence, about] = None
            is_new = sentence not in self._told
            self._told.add(sentence)
        self._counting.add("unreadable")
        if is_new:
            log.warning("%s", sentence)


class Decoder:
    """Makes events of entries."""

    def __init__(self, troubles: Troubles) -> None:
        self._troubles = troubles

    def event(self, entry: Entry, place: Place) -> tuple[str, str]:
        """The type and the data (JSON) of the event that an entry of a session is."""
        about = place, entry.cursor
        if entry.garbled:
            self._troubles.note("An entry holds bytes that are no UTF-8; they are passed on as \\x….", about)
        if entry.is_end:
            return "end", end_json(entry, place.session_id)
        return self._type(entry, about), to_json(self._data(entry, about))

    def _type(self, entry: Entry, about: Hashable) -> str:
        name = entry.type
        if name in RESERVED_EVENT_TYPES:
            return AS_IS + name
        try:
            return check_event_type(name)
        except ValueError:
            self._troubles.note("An entry has a type that no event can have; it is passed on as 'message'.", about)
            return DEFAULT_TYPE

    def _data(self, entry: Entry, about: Hashable) -> dict[str, Json]:
        data: dict[str, Json] = {}
        for name, text in entry.fields.items():
            short = name.removesuffix(JSON_SUFFIX)
            if short == name:
                data[name] = _or_empty(name, _known(text))
            elif not short or short in CONTROL_FIELDS or short in entry.fields:
                data[name] = text  # what it decodes to may not stand in for another field
            else:
                data[short] = self._decoded(short, text, about)
        return data

    def _decoded(self, name: str, text: str, about: Hashable) -> Json:
        try:
            value: Json = None if text in ("", NONE) else json.loads(text, parse_constant=_refuse, parse_float=_float)
            to_json(value)
        except (ValueError, RecursionError):
            self._troubles.note(
                "An entry has a field that is not the JSON that its name says; it is passed on as text.", about
            )
            return text
        return _or_empty(name, value)


def time_of(text: str) -> int | None:
    """A time as programs write it: Unix seconds or ms, or ISO 8601 (UTC unless it says otherwise). In Unix ms."""
    try:
        number = float(text)
    except ValueError:
        try:
            read = datetime.fromisoformat(re.sub(r"Z$", "+00:00", text))
        except ValueError:
            return None
        return round((read if read.tzinfo is not None else read.replace(tzinfo=timezone.utc)).timestamp() * 1000)
    if not math.isfinite(number) or number <= 0:
        return None
    return round(number if number > 1e11 else number * 1000)


def first_words(entries: Iterable[Entry | None]) -> list[Mapping[str, str]]:
    """The fields of those entries that are there, as `ExistingKeys.place` asks for them; None stored as text is
    nothing."""
    return [
        {name: text for name, text in entry.fields.items() if text != NONE} for entry in entries if entry is not None
    ]


def as_mapping(raw: Any) -> dict[bytes, Any]:
    """A reply of names and values: a flat list in RESP2, a mapping in RESP3."""
    if isinstance(raw, Mapping):
        return dict(raw)
    flat: Sequence[Any] = raw
    return dict(zip(flat[0::2], flat[1::2]))


def _known(text: str | None) -> str | None:
    """None where a program stored its None as a text."""
    return None if text == NONE else text


def _or_empty(name: str, value: Json) -> Json:
    return [] if value is None and name in LISTS else value


def _text(raw: bytes | str) -> str:
    return raw if isinstance(raw, str) else raw.decode(errors="backslashreplace")


def _refuse(constant: str) -> Json:
    raise ValueError(f"{constant} is not JSON")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number that can be passed on")
    return number
