"""What one app has of this package: its settings, the host's hooks, and what runs for it in this process."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from flask import Flask, current_app

from .background import Pool
from .concurrency import is_cooperative
from .config import Settings
from .engine import Engine
from .errors import ConfigurationError, StoreUnavailable
from .models import Json, Message, Session
from .processes import Users, sign_of_several
from .sessions import Sessions
from .stores import Counters, Store, store_from_uri

if TYPE_CHECKING:
    from .extension import SessionStatus

log = logging.getLogger("flask_sessionstatus")

EXTENSION = "sessionstatus"
THREADED_FOLLOWERS = 200
COOPERATIVE_FOLLOWERS = 10_000
SHUTDOWN = 5.0

Identify = Callable[[], "str | int | UUID | None"]
CanAccess = Callable[["str | None", str], bool]
IsOperator = Callable[[], bool]
VerifyKey = Callable[["str | None", str], bool]
OnMessage = Callable[[Session, Message], Json]


@dataclass
class Hooks:
    """What the host supplies."""

    identify: Identify | None = None
    can_access: CanAccess | None = None
    is_operator: IsOperator | None = None
    verify_key: VerifyKey | None = None
    on_message: OnMessage | None = None


class AppState:
    """What one app has of this package; what runs (store, outbox, hub, threads) is made anew in each process."""

    def __init__(self, extension: SessionStatus, settings: Settings, hooks: Hooks, sessions: Sessions) -> None:
        self.extension = extension
        self.settings = settings
        self.hooks = hooks
        self.sessions = sessions
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._pool: Pool | None = None
        self._sign: str | None = None
        self._said_several = False
        self.in_memory = self._make_store().name == "memory"
        self._users = Users() if self.in_memory else None
        self.notice_several(sign_of_several())
        _forget_in_children(self)

    @property
    def anonymous(self) -> bool:
        """Whether this host has no owners: whoever knows an id may use it."""
        return self.hooks.identify is None and self.settings.allow_anonymous

    @property
    def owned(self) -> bool:
        """Whether a conversation belongs to the namespace of its first live session, and to nobody else."""
        return self.hooks.can_access is None and not self.anonymous

    @property
    def engine(self) -> Engine:
        engine = self._engine
        return engine if engine is not None else self._make()

    def forget_parent(self) -> None:
        """In a forked child: what ran in the parent does not run here, and a lock may have been held."""
        self._lock = threading.Lock()
        self._engine = self._pool = None
        self._sign = None
        self._said_several = False

    def notice_several(self, sign: str | None) -> None:
        """Say loudly, once in this process, that several use a store in memory; `sign` is what tells, None: nothing."""
        if sign is not None and self._sign is None and self.in_memory:
            self._sign = sign
            self._say_several(sign)

    def _say_several(self, sign: str) -> None:
        if self._said_several:
            return
        self._said_several = True
        log.error(
            "%s, and each process keeps its own sessions in its own memory: what one begins the others do not know, "
            "so status, streams and stops are wrong for most requests. Set SESSIONSTATUS_STORAGE_URI=redis://…, or "
            "run one process with threads.",
            sign,
        )

    @property
    def divided(self) -> bool:
        """Whether several processes use this app's store in memory, as far as can be told.

        A server's word stays; a worker that was seen beside this one, as while one replaces the other, may end.
        """
        if self._sign is not None:
            return True
        other = self._users.other() if self._users is not None else None
        if other is not None:
            self._say_several(f"Process {other} was forked with this app and uses it too")
        return other is not None

    @property
    def degraded(self) -> bool:
        """Whether this process has a world of its own: its Redis is away, or there is none and there are others."""
        return self.store.degraded or self.divided

    @property
    def store(self) -> Store:
        return self.engine.store

    @property
    def pool(self) -> Pool:
        engine = self.engine
        assert engine is not None
        assert self._pool is not None
        return self._pool

    def _make_store(self, fallback: bool = False) -> Store:
        settings = self.settings
        if settings.existing_keys is not None and self.hooks.identify is not None and self.hooks.can_access is None:
            raise ConfigurationError(
                "SESSIONSTATUS_EXISTING_KEYS needs a rule of who may see other programs' sessions, which have no "
                "owners: give SessionStatus(can_access=…), or register it before init_app."
            )
        return store_from_uri(
            settings.storage_uri or "memory://",
            settings.limits,
            options=settings.storage_options,
            prefix=settings.key_prefix,
            index_everyone=self.anonymous,
            existing_keys=settings.existing_keys,
            language=settings.default_language,
            **({"fallback": True} if fallback else {}),
        )

    def _make(self) -> Engine:
        with self._lock:
            if self._engine is not None:
                return self._engine
            settings = self.settings
            self._pool = Pool(settings.background_workers, settings.background_eager)
            self._engine = Engine(
                self._make_store(settings.in_memory_fallback),
                heartbeat=settings.heartbeat,
                max_followers=settings.max_followers or _followers_here(),
                max_event_bytes=settings.max_event_bytes,
                max_result_bytes=settings.max_result_bytes,
                max_events=settings.max_events,
                store_tracebacks=settings.store_tracebacks,
            )
            if is_cooperative():
                self._engine.beats.stand_by(None if self.in_memory else self._make_store)
            if self._users is not None:
                self._users.enter()
            self.notice_several(sign_of_several())
        self.divided  # noqa: B018 - it says so
        return self._engine

    def stats(self) -> Mapping[str, int | bool | str | None]:
        """What all processes counted, and what the store says of itself."""
        counters = Counters()
        active, available = None, self.store.name == "redis"
        try:
            active = self.store.active_sessions()
            counters = self.store.totals()
        except StoreUnavailable:
            available = False
        degraded = self.degraded
        return {
            "sessions_created": counters.sessions_created,
            "sessions_expired": counters.sessions_expired,
            "sessions_evicted": counters.sessions_evicted,
            "cache_hits": counters.cache_hits,
            "cache_misses": counters.cache_misses,
            "active_sessions": active,
            "redis_available": available and not degraded,
            "degraded": degraded,
            "unreadable_records": counters.unreadable,
            "followers": self.engine.hub.followers,
            "store": self.store.name,
        }

    def shutdown(self, timeout: float = SHUTDOWN) -> bool:
        """End what runs in this process and store what is left; False when that took longer than `timeout` s."""
        engine = self._engine
        return engine is None or engine.shutdown(timeout)

    def stop(self, timeout: float) -> bool:
        """As shutdown, for an app that goes on: its next use starts anew."""
        stored = self.shutdown(timeout)
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.store.close()
        return stored


def _forget_in_children(state: AppState) -> None:
    reference = weakref.ref(state)

    def forget() -> None:
        known = reference()
        if known is not None:
            known.forget_parent()

    os.register_at_fork(after_in_child=forget)


def _followers_here() -> int:
    """How many streams a process of this kind of server can hold: one a thread, or thousands under gevent."""
    return COOPERATIVE_FOLLOWERS if is_cooperative() else THREADED_FOLLOWERS


def app_state() -> AppState:
    """The present app's state, where a route of ours is being answered."""
    return state_of(current_app)


def state_of(app: Flask) -> AppState:
    """What an app has of this package. Raises ConfigurationError when it has nothing."""
    state: AppState | None = app.extensions.get(EXTENSION)
    if state is None:
        raise ConfigurationError(f"The Flask app {app.name!r} has no SessionStatus: call init_app(app).")
    return state
