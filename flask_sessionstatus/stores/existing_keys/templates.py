"""The names of other programs' keys, and which session a key belongs to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from string import Formatter
from typing import NamedTuple

from ...errors import InvalidValue
from ...models import check_id

CONVERSATION, SESSION = "conversation_id", "session_id"
NAMES = ("stream", "status", "cancel")
WHOLE = "whole"
SESSION_FIELDS = ("run_id", SESSION)
EXAMPLE = '{"stream": "chat:stream:{conversation_id}:{session_id}"}'
MAX_KEY = 2048
"""Bytes: a longer key names no two ids of ours."""


class Place(NamedTuple):
    """The conversation and the session that a key names."""

    conversation_id: str
    session_id: str


@dataclass(frozen=True)
class Template:
    """A key's name: `head`, one id, `middle`, the other id, `tail`."""

    head: str
    middle: str
    tail: str
    conversation_first: bool

    @classmethod
    def parse(cls, text: object) -> Template:
        """Read `chat:stream:{conversation_id}:{session_id}`; `{{` stands for a brace. Raises ValueError."""
        if not isinstance(text, str) or not text.isprintable():
            raise ValueError("must be a text such as 'chat:stream:{conversation_id}:{session_id}'")
        literals, names = [""], []
        for literal, name, spec, conversion in Formatter().parse(text):
            literals[-1] += literal
            if name is not None:
                if spec or conversion:
                    raise ValueError(f"must hold {{{name}}} as it is, without ':' or '!' inside the braces")
                names.append(name)
                literals.append("")
        if sorted(names) != [CONVERSATION, SESSION]:
            said = "must hold {conversation_id} and {session_id}, once each, and nothing else in braces"
            raise ValueError(f"{said}{_mistaken(''.join(literals), names)}")
        head, middle, tail = literals
        if not head:
            raise ValueError("must begin with a text: every key of the server would have to be looked at")
        if not middle:
            raise ValueError("must have a text between {conversation_id} and {session_id}")
        return cls(head, middle, tail, names[0] == CONVERSATION)

    def key(self, place: Place) -> str:
        """The key of a session."""
        first, second = place if self.conversation_first else reversed(place)
        return f"{self.head}{first}{self.middle}{second}{self.tail}"

    @property
    def glob(self) -> str:
        """The pattern of SCAN that all of its keys match."""
        return f"{_escaped(self.head)}*{_escaped(self.tail)}"

    def places(self, key: bytes) -> list[Place]:
        """All sessions that a key can be of: several where an id holds what stands between the ids."""
        if len(key) > MAX_KEY:
            return []
        try:
            text = key.decode()
        except UnicodeDecodeError:
            return []
        end = len(text) - len(self.tail)
        if not text.startswith(self.head) or not text.endswith(self.tail) or end <= len(self.head):
            return []
        return list(self._split(text[len(self.head) : end]))

    def _split(self, ids: str) -> Iterator[Place]:
        at = ids.find(self.middle, 1)
        while at != -1:
            first, second = ids[:at], ids[at + len(self.middle) :]
            place = Place(first, second) if self.conversation_first else Place(second, first)
            if all(_is_id(each) for each in place):
                yield place
            at = ids.find(self.middle, at + 1)

    def can_be_one_of(self, other: Template) -> bool:
        """Whether some key could be of both."""
        return _one_starts_with(self.head, other.head) and _one_starts_with(self.tail[::-1], other.tail[::-1])


@dataclass(frozen=True)
class ExistingKeys:
    """The names under which other programs keep a session's stream, and its status and cancel request if they do.

    `whole` is the kind of id that never holds what stands between the ids, if somebody has said so.
    """

    stream: Template
    status: Template | None = None
    cancel: Template | None = None
    whole: str | None = None

    @classmethod
    def parse(cls, value: object) -> ExistingKeys:
        """Read the mapping, or its JSON text, of SESSIONSTATUS_EXISTING_KEYS.

        Raises ValueError; what it says goes on from the name of the setting, and shows the template at fault.
        """
        if isinstance(value, str) and not value.strip():
            raise ValueError("is empty: leave it out for none")
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                raise ValueError(f"must be JSON, an object of templates, such as {EXAMPLE}") from None
        if not isinstance(value, Mapping):
            raise ValueError(f"must be a mapping of templates: {', '.join(NAMES)}")
        unknown = sorted(str(name) for name in value if name not in (*NAMES, WHOLE))
        if unknown:
            raise ValueError(f"has {unknown[0]!r}, which is none of {', '.join((*NAMES, WHOLE))}")
        if value.get("stream") is None:
            raise ValueError("must have a template for 'stream'")
        if value.get(WHOLE) not in (None, CONVERSATION, SESSION):
            raise ValueError(f"has a wrong {WHOLE!r}: it must be {CONVERSATION!r} or {SESSION!r}")
        templates: dict[str, Template] = {}
        for name in NAMES:
            if value.get(name) is not None:
                try:
                    templates[name] = Template.parse(value[name])
                except ValueError as error:
                    raise ValueError(f"has a wrong {name!r}{_shown(value[name])}: it {_sentence(error)}") from None
        for one, other in combinations(templates, 2):
            if templates[one].can_be_one_of(templates[other]):
                raise ValueError(
                    f"has a {one!r} and a {other!r} that cannot be told apart, as a key could be of both: give them "
                    "different beginnings, neither the beginning of the other, or endings, neither the end of the other"
                )
        return cls(**templates, whole=value.get(WHOLE))

    def reaches_into(self, prefix: str) -> str | None:
        """The template, if there is one, that a key with our own prefix could be of."""
        for name in NAMES:
            template: Template | None = getattr(self, name)
            if template is not None and _one_starts_with(template.head, prefix):
                return name
        return None

    @property
    def watched(self) -> list[str]:
        """The prefixes of the keys that tell what happens to a session, none the beginning of another."""
        heads = {each.head for each in (self.stream, self.status) if each is not None}
        return sorted(head for head in heads if not any(head != other and head.startswith(other) for other in heads))

    def place(self, places: Iterable[Place], said: Iterable[Mapping[str, str]]) -> Place | None:
        """Which of the possible places of a key is its own, from the fields of its entries; None where nothing says.

        Entries that name a conversation or a session decide; without, `whole` does. Nobody's stream is shown on a
        guess: the other reading would be somebody else's.
        """
        possible = list(places)
        if len(possible) == 1:
            return possible[0]
        for fields in said:
            conversation = fields.get(CONVERSATION)
            sessions = {fields[name] for name in SESSION_FIELDS if name in fields}
            if conversation is not None or sessions:
                fitting = [
                    place
                    for place in possible
                    if conversation in (None, place.conversation_id) and (not sessions or place.session_id in sessions)
                ]
                return fitting[0] if len(fitting) == 1 else None
        if not possible or self.whole is None:
            return None
        # The id that holds no separator is the shorter, the fewer of them the other one leaves to it.
        return min(possible, key=lambda place: len(place[self.whole == SESSION]))


def _is_id(text: str) -> bool:
    try:
        check_id(text, "id")
    except InvalidValue:
        return False
    return True


def _one_starts_with(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def _escaped(text: str) -> str:
    return re.sub(r"([*?\[\]\\])", r"\\\1", text)


def _shown(template: object) -> str:
    """A template in a message, unless it is the URI of a server, which may hold a password."""
    return "" if "://" in str(template) else f", {template!r}"


def _mistaken(literal: str, names: list[str]) -> str:
    """What somebody may have taken for the two names."""
    doubled = " and ".join(f"{{{name}}}" for name in (CONVERSATION, SESSION) if f"{{{name}}}" in literal)
    if doubled:
        return f" ({{{{ and }}}} stand for braces themselves; write {doubled})"
    if set(names) - {CONVERSATION, SESSION} and {CONVERSATION, SESSION} - set(names):
        return f"; they are called {CONVERSATION} and {SESSION} here"
    return ""


def _sentence(error: ValueError) -> str:
    """What a format string's own error says begins with a capital letter and does not say what to do."""
    text = str(error)
    return text if text.startswith("must") else f"must have its braces in pairs ({text})"
