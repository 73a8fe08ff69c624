"""The only list of SESSIONSTATUS_* keys. Every bad value stops start-up with a message that names its key."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from difflib import SequenceMatcher
from typing import Any

from .errors import ConfigurationError
from .models import ROLES
from .stores import ExistingKeys, Limits

PREFIX = "SESSIONSTATUS_"

_TRUE = ("true", "1", "yes", "on", "y", "t")
_FALSE = ("false", "0", "no", "off", "n", "f")

_OTHER_WORDS = {"URL": "URI", "REDIS": "STORAGE"}
"""What others call what is in our keys."""

_UNSHOWN = ("storage_uri", "storage_options", "existing_keys")
"""Their errors say themselves what may be shown of the value."""


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word not in _TRUE + _FALSE:
        raise ValueError("must be true or false", *(["leave it out for false"] if value in ("", None) else []))
    return word in _TRUE


def _fallback(value: object) -> bool:
    if value in ("memory", "memory://"):
        raise ValueError("must be true or false", "it is always this process's memory")
    return _boolean(value)


def _seconds(value: object) -> float:
    if isinstance(value, bool):
        raise ValueError("must be a number of seconds")
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError("must be a number of seconds") from None
    if not math.isfinite(number) or not 0.001 <= number <= 10**9:
        raise ValueError("must be a number of seconds above 0")
    return number


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError("must be a whole number of at least 1")
    try:
        number = int(value)
    except ValueError:
        raise ValueError("must be a whole number of at least 1") from None
    if not 1 <= number <= 10**12:
        raise ValueError("must be a whole number of at least 1")
    return number


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError("must be a text that is not empty")
    return value


def _uri(value: object) -> str:
    text = _text(value)
    if text != text.strip():
        raise ValueError(f"must be a URI alone: it {'begins' if text[0] == ' ' else 'ends'} with a space")
    scheme, separator, rest = text.partition("://")
    # RFC 3986, 3.1: schemes are case-insensitive.
    return f"{scheme.lower()}{separator}{rest}" if separator else text


def _prefix(value: object) -> str:
    text = _text(value)
    if "{" in text or "}" in text:
        raise ValueError("must not contain { or }, which decide where Redis Cluster keeps a key")
    return text


def _options(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ValueError("must be a mapping of options for the client")
    return dict(value)


def _roles(value: object) -> tuple[str, ...]:
    named = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(named, (list, tuple, set, frozenset)) or not all(role in ROLES for role in named):
        raise ValueError(f"must be roles among {', '.join(ROLES)}")
    return tuple(named)


def _path(value: object) -> str:
    text = _text(value)
    if not text.startswith("/") or text.startswith("//") or set(text) & set("<>?#"):
        raise ValueError("must be a path that begins with one / and contains none of <>?#")
    return text


def _origins(value: object) -> tuple[str, ...]:
    named = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(named, (list, tuple, set, frozenset)) or not all(_is_origin(origin) for origin in named):
        raise ValueError("must be origins such as https://example.org, without a path")
    return tuple(origin.lower() for origin in named)


def _existing_keys(value: object) -> ExistingKeys:
    return ExistingKeys.parse(value)


def _is_origin(value: object) -> bool:
    scheme, separator, host = value.partition("://") if isinstance(value, str) else ("", "", "")
    return bool(scheme and separator and host) and not set(host) & set("/?#@ ")


def _may_be_secret(value: object) -> bool:
    """Whether a value looks like the URI of a server, put into the wrong setting."""
    return re.search(r"://.*[@?]", str(value), re.DOTALL) is not None


def _nearest(key: str, known: Iterable[str]) -> str:
    """Which setting somebody may have meant, as a sentence; empty where none is near."""
    words = [_OTHER_WORDS.get(word, word) for word in key.removeprefix(PREFIX).split("_")]

    def nearness(name: str) -> tuple[int, float]:
        shared = set(words).intersection(name.split("_"))
        return len(shared), SequenceMatcher(None, "_".join(words), name).ratio()

    nearest = max((each.removeprefix(PREFIX) for each in known), key=nearness)
    return f" Did you mean {PREFIX}{nearest}?" if nearness(nearest) > (0, 0.6) else ""


def _setting(default: Any, parse: Callable[[object], Any], optional: bool = False) -> Any:
    return field(default=default, metadata={"parse": parse, "optional": optional})


@dataclass(frozen=True)
class Settings:
    """The configuration of one app; each field is the key `SESSIONSTATUS_<NAME>`.

    Times are in seconds, sizes in bytes.
    """

    storage_uri: str | None = _setting(None, _uri, optional=True)
    storage_options: Mapping[str, Any] = field(default_factory=dict, metadata={"parse": _options, "optional": False})
    key_prefix: str = _setting("sessionstatus:", _prefix)
    session_ttl: float = _setting(1800.0, _seconds)
    max_sessions: int = _setting(10_000, _count)
    max_sessions_per_namespace: int | None = _setting(None, _count, optional=True)
    lease: float = _setting(30.0, _seconds)
    heartbeat: float = _setting(5.0, _seconds)
    max_pending_age: float = _setting(3600.0, _seconds)
    max_events: int = _setting(10_000, _count)
    max_event_bytes: int = _setting(65_536, _count)
    max_turns: int = _setting(1000, _count)
    max_body_bytes: int = _setting(1_048_576, _count)
    max_result_bytes: int = _setting(1_048_576, _count)
    result_ttl: float | None = _setting(None, _seconds, optional=True)
    max_age: float | None = _setting(None, _seconds, optional=True)
    connect_deadline: float = _setting(30.0, _seconds)
    max_wait: float = _setting(25.0, _seconds)
    default_language: str = _setting("nl", _text)
    client_roles: tuple[str, ...] = _setting(("user",), _roles)
    store_tracebacks: bool = _setting(False, _boolean)
    background_workers: int = _setting(8, _count)
    background_eager: bool = _setting(False, _boolean)
    max_followers: int | None = _setting(None, _count, optional=True)
    existing_keys: ExistingKeys | None = field(default=None, metadata={"parse": _existing_keys, "optional": True})
    in_memory_fallback: bool = _setting(False, _fallback)
    allow_anonymous: bool = _setting(False, _boolean)
    websocket_path: str | None = _setting(None, _path, optional=True)
    websocket_origins: tuple[str, ...] = _setting((), _origins)

    @classmethod
    def from_mapping(cls, config: Mapping[str, Any]) -> Settings:
        """Read an app's config. Raises ConfigurationError, naming the key, for a wrong value and for an unknown key."""
        known = {f"{PREFIX}{each.name.upper()}": each for each in fields(cls)}
        unknown = sorted(key for key in config if isinstance(key, str) and key.startswith(PREFIX) and key not in known)
        if unknown:
            raise ConfigurationError(
                f"{unknown[0]} is no setting of flask-sessionstatus.{_nearest(unknown[0], known)} There are: "
                f"{', '.join(known)}."
            )
        values: dict[str, Any] = {}
        for key, each in known.items():
            value = config.get(key)
            if key not in config or (value is None and each.metadata["optional"]):
                continue
            try:
                values[each.name] = each.metadata["parse"](value)
            except ValueError as error:
                said, *hint = error.args
                shown = f", not {value!r}" if each.name not in _UNSHOWN and not _may_be_secret(value) else ""
                raise ConfigurationError(f"{key} {': '.join([said + shown, *hint])}.") from None
        settings = cls(**values)
        settings._check_together()
        return settings

    def _check_together(self) -> None:
        if self.session_ttl < self.lease:
            raise ConfigurationError(
                f"SESSIONSTATUS_SESSION_TTL ({self.session_ttl:g}) must not be below SESSIONSTATUS_LEASE "
                f"({self.lease:g}): a session would expire under a running task."
            )
        if self.heartbeat * 2 > self.lease:
            raise ConfigurationError(
                f"SESSIONSTATUS_HEARTBEAT ({self.heartbeat:g}) must be at most half of SESSIONSTATUS_LEASE "
                f"({self.lease:g}): one late beat would make a running task look lost."
            )

        reaching = self.existing_keys.reaches_into(self.key_prefix) if self.existing_keys is not None else None
        if reaching is not None:
            raise ConfigurationError(
                f"SESSIONSTATUS_EXISTING_KEYS has a {reaching!r} whose keys could be our own: they begin with "
                f"{self.key_prefix!r} (SESSIONSTATUS_KEY_PREFIX)."
            )

        if self.in_memory_fallback and (self.storage_uri or "memory://").startswith("memory://"):
            raise ConfigurationError(
                "SESSIONSTATUS_IN_MEMORY_FALLBACK is for a Redis that may be away: SESSIONSTATUS_STORAGE_URI must name "
                "one."
            )

    @property
    def limits(self) -> Limits:
        """The bounds that the store keeps, in ms."""

        def ms(seconds: float) -> int:
            return round(seconds * 1000)

        return Limits(
            session_ttl=ms(self.session_ttl),
            lease=ms(self.lease),
            heartbeat=ms(self.heartbeat),
            max_pending_age=ms(self.max_pending_age),
            max_age=None if self.max_age is None else ms(self.max_age),
            connect_deadline=ms(self.connect_deadline),
            result_ttl=None if self.result_ttl is None else ms(self.result_ttl),
            max_sessions=self.max_sessions,
            max_sessions_per_namespace=self.max_sessions_per_namespace,
            max_events=self.max_events,
            max_turns=self.max_turns,
        )
