"""Where sessions live: one contract (`Store`), chosen by a URI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ..errors import ConfigurationError
from .base import Limits, Store
from .memory import MemoryStore

__all__ = ["Limits", "MemoryStore", "Store", "store_from_uri"]

_SPELLINGS = {"valkey": "redis", "valkeys": "rediss"}


def store_from_uri(
    uri: str,
    limits: Limits,
    *,
    options: Mapping[str, Any] | None = None,
    prefix: str = "sessionstatus:",
    index_everyone: bool = False,
) -> Store:
    """The store that a URI names: `memory://`, `redis://`, `rediss://`, `unix://` (or `valkey://`, `valkeys://`).

    Nothing is connected yet. Raises ConfigurationError for a URI that cannot be one; the message never holds a
    password.
    """
    scheme, separator, rest = uri.partition("://")
    scheme = _SPELLINGS.get(scheme, scheme)
    if not separator or scheme not in ("memory", "redis", "rediss", "unix"):
        raise ConfigurationError(
            "SESSIONSTATUS_STORAGE_URI must begin with memory://, redis://, rediss:// or unix:// "
            f"(or valkey://, valkeys://), not with {scheme + separator if separator else 'something else'!r}."
        )
    if scheme == "memory":
        return MemoryStore(limits)
    try:
        if scheme != "unix":
            parts = urlsplit(f"{scheme}://{rest}")
            if parts.port == 0:
                raise ValueError("port 0")
            if not parts.path.strip("/").isdecimal() and parts.path.strip("/"):
                raise ValueError("the path is the number of a database")
        from .redis import RedisStore
        from .redis_calls import connect

        client = connect(f"{scheme}://{rest}", options or {})
    except ImportError as error:  # pragma: no cover - redis is a dependency
        raise ConfigurationError("SESSIONSTATUS_STORAGE_URI needs the package redis.") from error
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"SESSIONSTATUS_STORAGE_URI or SESSIONSTATUS_STORAGE_OPTIONS: {_plain(error)}"
        ) from None
    return RedisStore(client, limits, prefix, index_everyone=index_everyone)


def _plain(error: Exception) -> str:
    """An error's message, unless it could hold a part of the URI."""
    text = str(error)
    return "not a usable address." if "@" in text or "://" in text else f"{text}."
