"""SessionStatus: one object for the host; its state lies with each app, and apart in each process."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID, uuid4

from flask import Flask, current_app, has_app_context, has_request_context

from .background import BackgroundFunction, Options, Pool
from .concurrency import is_cooperative
from .config import Settings
from .errors import AlreadyStarted, ConfigurationError, InvalidValue, SessionStatusError, StoreUnavailable
from .http import access, errors
from .http.blueprint import make_blueprint
from .models import Json, Task, check_event_type, check_id
from .runs import Engine, IfRunning, Run
from .sessions import UNSET, Sessions
from .shutdown import shut_down_with_process
from .stores import Store, store_from_uri
from .stores.base import TaskDraft

if TYPE_CHECKING:
    from typing import Concatenate

    from flask_smorest import Blueprint
    from typing_extensions import ParamSpec

    P = ParamSpec("P")

R = TypeVar("R")

log = logging.getLogger("flask_sessionstatus")

EXTENSION = "sessionstatus"
THREADED_FOLLOWERS = 200
COOPERATIVE_FOLLOWERS = 10_000
SHUTDOWN = 5.0

Identify = Callable[[], "str | int | UUID | None"]
CanAccess = Callable[["str | None", str], bool]
IsOperator = Callable[[], bool]


@dataclass
class Hooks:
    """What the host supplies."""

    identify: Identify | None = None
    can_access: CanAccess | None = None
    is_operator: IsOperator | None = None


class AppState:
    """What one app has of this package; what runs (store, outbox, hub, threads) is made anew in each process."""

    def __init__(self, app: Flask, settings: Settings, hooks: Hooks, sessions: Sessions) -> None:
        self.settings = settings
        self.hooks = hooks
        self.sessions = sessions
        self._app = weakref.ref(app)
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._pool: Pool | None = None
        self._make_store()
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

    @property
    def store(self) -> Store:
        return self.engine.store

    @property
    def pool(self) -> Pool:
        engine = self.engine
        assert engine is not None
        assert self._pool is not None
        return self._pool

    def _make_store(self) -> Store:
        settings = self.settings
        return store_from_uri(
            settings.storage_uri or "memory://",
            settings.limits,
            options=settings.storage_options,
            prefix=settings.key_prefix,
            index_everyone=self.anonymous,
        )

    def _make(self) -> Engine:
        with self._lock:
            if self._engine is not None:
                return self._engine
            settings = self.settings
            app = self._app()
            assert app is not None
            self._pool = Pool(app, settings.background_workers, settings.background_eager)
            self._engine = Engine(
                self._make_store(),
                heartbeat=settings.heartbeat,
                max_followers=settings.max_followers or _followers_here(),
                max_event_bytes=settings.max_event_bytes,
                max_result_bytes=settings.max_result_bytes,
                max_events=settings.max_events,
            )
            return self._engine

    def stats(self) -> Mapping[str, int | bool | str | None]:
        """What this process counted, and what the store says of itself."""
        counters = self.store.counters
        active, available = None, self.store.name == "redis"
        try:
            active = self.store.active_sessions()
            self.store.ping()
        except StoreUnavailable:
            available = False
        return {
            "sessions_created": counters.sessions_created,
            "sessions_expired": counters.sessions_expired,
            "sessions_evicted": counters.sessions_evicted,
            "cache_hits": counters.cache_hits,
            "cache_misses": counters.cache_misses,
            "active_sessions": active,
            "redis_available": available,
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


class SessionStatus:
    """Sessions, tasks and resumable streams for a Flask app.

    `identify()` gives the caller's namespace or None; `can_access(namespace_id, conversation_id)` widens or narrows
    "own conversations only"; `is_operator()` opens `GET /stats`. Each may also be set with the decorator of its name.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        identify: Identify | None = None,
        can_access: CanAccess | None = None,
        is_operator: IsOperator | None = None,
    ) -> None:
        self.hooks = Hooks(identify, can_access, is_operator)
        self.sessions = Sessions(
            lambda: self.state.store,
            self._default_namespace,
            lambda: self.state.settings.default_language,
            lambda: self.state.owned,
        )
        if app is not None:
            self.init_app(app)

    def identify(self, function: Identify) -> Identify:
        """Register who the caller is."""
        self.hooks.identify = function
        return function

    def can_access(self, function: CanAccess) -> CanAccess:
        """Register who may use a conversation."""
        self.hooks.can_access = function
        return function

    def is_operator(self, function: IsOperator) -> IsOperator:
        """Register who may read `GET /stats`."""
        self.hooks.is_operator = function
        return function

    def init_app(self, app: Flask) -> None:
        """Read the app's config and stand ready.

        Nothing is connected yet. Raises ConfigurationError, naming the key.
        """
        if EXTENSION in app.extensions:
            raise ConfigurationError("This app has a SessionStatus already: call init_app once.")
        settings = Settings.from_mapping(app.config)
        app.extensions[EXTENSION] = state = AppState(app, settings, self.hooks, self.sessions)
        app.register_error_handler(SessionStatusError, errors.respond)
        shut_down_with_process(state)
        if settings.storage_uri is None:
            log.warning(
                "SESSIONSTATUS_STORAGE_URI is not set: sessions are kept in this process's memory. That is right for "
                "one process; set redis://… for more, or memory:// to say that it is meant."
            )

    def create_blueprint(
        self,
        name: str = "sessionstatus",
        *,
        parts: Sequence[str] = ("conversations", "sessions", "operations", "client"),
    ) -> Blueprint:
        """A new blueprint with all routes, to be registered once, on a Flask app or a flask-smorest Api.

        `parts` chooses among conversations, sessions, operations (`/health`, `/stats`) and client (`/client.js`).
        """
        return make_blueprint(self, name, parts)

    def ensure_app(self, app: Flask) -> None:
        """Initialise an app on which the blueprint is registered without init_app."""
        if EXTENSION not in app.extensions:
            self.init_app(app)

    @property
    def state(self) -> AppState:
        """The present app's state. Raises RuntimeError outside of an app context."""
        if not has_app_context():
            raise RuntimeError("flask-sessionstatus needs an app context: with app.app_context(): …")
        state: AppState | None = current_app.extensions.get(EXTENSION)
        if state is None:
            raise RuntimeError("This app has no SessionStatus: call init_app(app).")
        return state

    def _default_namespace(self) -> str | None:
        state = self.state
        if has_request_context():
            return access.caller(state)
        if state.hooks.identify is not None:
            raise InvalidValue("Outside of a request there is nobody to identify: give namespace_id=.")
        return None

    # Tasks

    def run(
        self,
        conversation_id: str,
        session_id: str | None = None,
        type: str = "generation",
        *,
        if_running: IfRunning = "allow",
        idempotency_key: str | None = None,
        wire: str = "sse",
        namespace_id: Any = UNSET,
        metadata: Mapping[str, Json] | None = None,
    ) -> Run:
        """A run of a new task: `with sessionstatus.run(conversation_id) as run`. Needs an app context and binds to
        its app.

        `session_id` None is a new session; an id is that session, made if absent. Entering raises as `Run.begin` does.
        """
        options = Options(type, session_id, namespace_id, wire, if_running, idempotency_key, dict(metadata or {}))
        return self._run(options, conversation_id, pending=False)

    def _run(self, options: Options, conversation_id: str, pending: bool) -> Run:
        state = self.state
        if options.if_running not in ("allow", "reject", "replace"):
            raise InvalidValue(f"if_running is allow, reject or replace, not {options.if_running!r}.")
        if options.wire not in ("sse", "ai-sdk"):
            raise InvalidValue(f"wire is sse or ai-sdk, not {options.wire!r}.")
        if options.idempotency_key is not None:
            check_id(options.idempotency_key.replace("/", "-"), "idempotencyKey")
        session = self.sessions.draft(
            conversation_id, options.session_id, namespace_id=options.namespace_id, metadata=options.metadata
        )
        task = TaskDraft(
            task_id=str(uuid4()),
            token=uuid4().hex,
            type=check_event_type(options.type),
            wire=options.wire,
            pending=pending,
            idempotency_key=options.idempotency_key,
        )
        return Run(state.engine, session, task, if_running=options.if_running, own=state.owned)

    def background(
        self, type: str = "generation", **options: Any
    ) -> Callable[[Callable[Concatenate[Run, P], R]], BackgroundFunction[P, R]]:
        """Make a function, whose first argument is its run, one that can be started in the background.

        Options as for `run`.
        """

        def decorate(function: Callable[Concatenate[Run, P], R]) -> BackgroundFunction[P, R]:
            return BackgroundFunction(self, function, replace(Options(type), **options))

        return decorate

    def start(
        self,
        function: Callable[..., Any],
        options: Options,
        conversation_id: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Task:
        """Begin a background task; see BackgroundFunction.start."""
        state = self.state
        run = self._run(options, conversation_id, pending=True)
        try:
            run.begin()
        except AlreadyStarted as started:
            return started.task
        state.pool.submit(run, function, args, kwargs)
        return run.task

    # Operations

    def stats(self) -> Mapping[str, int | bool | str | None]:
        """What this process counted: see `GET /stats`."""
        return self.state.stats()

    def shutdown(self, timeout: float = SHUTDOWN) -> bool:
        """End what runs in this process: tasks that still run become errors, everything emitted is stored, streams
        close.

        Called by itself when the process ends. False when it took longer than `timeout` s. The app can be used again.
        """
        return self.state.stop(timeout)
