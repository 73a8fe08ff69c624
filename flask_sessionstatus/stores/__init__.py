"""Where sessions live: one contract (`Store`), chosen by a URI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigurationError
from .base import Counters, Limits, Store
from .existing_keys import ExistingKeys
from .memory import MemoryStore

__all__ = ["Counters", "ExistingKeys", "Limits", "MemoryStore", "Store", "store_from_uri"]


def store_from_uri(
    uri: str,
    limits: Limits,
    *,
    options: Mapping[str, Any] | None = None,
    prefix: str = "sessionstatus:",
    index_everyone: bool = False,
    existing_keys: ExistingKeys | None = None,
    language: str = "nl",
    fallback: bool = False,
) -> Store:
    """The store that a URI names: `memory://`, `redis://`, `rediss://`, `unix://`, `redis+sentinel://`,
    `redis+cluster://`, or the spellings with `valkey`.

    With `existing_keys` it shows the sessions of other programs, too; `language` is theirs. With `fallback` this
    process goes on from its own memory while Redis is away. Nothing is connected yet. Raises ConfigurationError for a
    URI that cannot be one; the message never holds a password.
    """
    if uri.startswith("memory://"):
        if uri != "memory://":
            raise ConfigurationError("SESSIONSTATUS_STORAGE_URI must be memory:// with nothing behind it.")
        if existing_keys is not None:
            raise ConfigurationError(
                "SESSIONSTATUS_EXISTING_KEYS needs the Redis that those keys are in: set SESSIONSTATUS_STORAGE_URI to "
                "redis://…, not memory://."
            )
        return MemoryStore(limits)
    try:
        from .redis import RedisStore, connect
    except ImportError as error:  # pragma: no cover - redis is a dependency
        raise ConfigurationError("SESSIONSTATUS_STORAGE_URI needs the package redis.") from error
    redis = RedisStore(connect(uri, options or {}), limits, prefix, index_everyone=index_everyone, insists=not fallback)
    store: Store = redis
    if existing_keys is not None:
        from .existing_keys.store import ExistingKeysStore

        store = ExistingKeysStore(redis, existing_keys, language=language)
    if fallback:
        from .fallback import FallbackStore

        store = FallbackStore(redis, store)
    return store
