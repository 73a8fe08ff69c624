"""SessionStatus: one object for the host; its state lies with each app, and apart in each process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from flask import Flask, current_app, has_app_context, has_request_context

from .background import BackgroundFunction, Job, Options
from .config import Settings
from .errors import ConfigurationError, InvalidValue, SessionStatusError
from .http import access, errors
from .http.blueprint import make_blueprint
from .models import Json, Session, Task
from .queues import Work, enqueue
from .runs import IfRunning, Run
from .sessions import UNSET, Sessions
from .shutdown import shut_down_with_process
from .state import EXTENSION, SHUTDOWN, AppState, CanAccess, Hooks, Identify, IsOperator, OnMessage, VerifyKey
from .stores.base import SessionDraft, TaskDraft, TaskRef

if TYPE_CHECKING:
    from typing import Concatenate

    from flask_smorest import Blueprint
    from typing_extensions import ParamSpec

    P = ParamSpec("P")

R = TypeVar("R")

log = logging.getLogger("flask_sessionstatus")


class SessionStatus:
    """Sessions, tasks and resumable streams for a Flask app.

    `identify()` gives the caller's namespace or None; `can_access(namespace_id, conversation_id)` widens or narrows
    "own conversations only"; `is_operator()` opens `GET /stats`; `verify_key(namespace_id, key_hash)` checks the key of
    a new session; `on_message(session, message)` is told what a client says over a session's socket. Each may also be
    set with the decorator of its name.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        identify: Identify | None = None,
        can_access: CanAccess | None = None,
        is_operator: IsOperator | None = None,
        verify_key: VerifyKey | None = None,
        on_message: OnMessage | None = None,
    ) -> None:
        self.hooks = Hooks(identify, can_access, is_operator, verify_key, on_message)
        self.sessions = Sessions(
            lambda: self.state.store,
            self._default_namespace,
            lambda: self.state.settings.default_language,
            lambda: self.state.owned,
            tally=lambda session_id, amounts: self.state.engine.tallies.add(session_id, amounts),
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

    def verify_key(self, function: VerifyKey) -> VerifyKey:
        """Register whether a `keyHash` is a namespace's: `POST /sessions` then requires one.

        Compare with `hmac.compare_digest`, whose time does not tell how much of a guess was right.
        """
        self.hooks.verify_key = function
        return function

    def on_message(self, function: OnMessage) -> OnMessage:
        """Register what hears the messages of sockets, in the socket's thread, in an app context, without a request.

        `session` is as it was when the socket was opened. What it returns, unless None, is sent back as JSON.
        """
        self.hooks.on_message = function
        return function

    def init_app(self, app: Flask) -> None:
        """Read the app's config and stand ready.

        Nothing is connected yet. Raises ConfigurationError, naming the key.
        """
        if EXTENSION in app.extensions:
            raise ConfigurationError("This app has a SessionStatus already: call init_app once.")
        settings = Settings.from_mapping(app.config)
        if settings.websocket_path is not None:
            _add_websocket(app, settings.websocket_path)
        app.extensions[EXTENSION] = state = AppState(self, settings, self.hooks, self.sessions)
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
        return make_blueprint(name, parts, self._ensure_app)

    def _ensure_app(self, app: Flask) -> None:
        """Initialise an app on which the blueprint is registered without init_app."""
        if EXTENSION not in app.extensions:
            self.init_app(app)

    @property
    def state(self) -> AppState:
        """The present app's state. Raises RuntimeError outside of an app context."""
        return _present_state()

    def _default_namespace(self) -> str | None:
        state = self.state
        if has_request_context():
            return access.caller(state)
        if state.hooks.identify is not None:
            raise InvalidValue("Outside of a request there is nobody to identify: give namespace_id=.")
        return None

    def session_for_caller(self, session_id: str) -> Session:
        """The session, if whoever sent this request may have it: the check of the routes, for a route of yours.

        Raises what they answer: NotFound, also where it is somebody else's, Unauthorized without a login or the
        session's key, Forbidden without an access rule.
        """
        return access.session_for_caller(self.state, session_id)

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
        session, task = self._drafts(options, conversation_id, pending=pending)
        return Run(state.engine, session, task, if_running=options.if_running, own=state.owned)

    def _drafts(
        self, options: Options, conversation_id: str, *, pending: bool, leased: bool = True
    ) -> tuple[SessionDraft, TaskDraft]:
        """What the options mean, checked."""
        session = self.sessions.draft(
            conversation_id, options.session_id, namespace_id=options.namespace_id, metadata=options.metadata
        )
        task = TaskDraft(
            task_id=str(uuid4()),
            token=uuid4().hex,
            type=options.type,
            wire=options.wire,
            pending=pending,
            leased=leased,
            idempotency_key=options.idempotency_key,
        )
        return session, task

    def enqueue(
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
        delay: float = 0.0,
    ) -> Task:
        """Begin a task that waits in a queue of yours: send its `ticket`, a text, in the queue's message.

        It is pending, and so active, until a worker takes it up with `work`, at most `SESSIONSTATUS_MAX_PENDING_AGE`,
        and `delay` more: that is for how long the queue holds it back, in s.
        Options as for `run`. With a used idempotency key the first task is returned; its `ticket` is None unless it
        still waits. Raises as `Run.begin` does, but for AlreadyStarted.
        """
        state = self.state
        options = Options(type, session_id, namespace_id, wire, if_running, idempotency_key, dict(metadata or {}))
        session, task = self._drafts(options, conversation_id, pending=True, leased=False)
        if not 0 <= delay < 10**9:
            raise InvalidValue(f"delay is a number of seconds, not {delay!r}.")
        task = replace(task, delay=round(delay * 1000))
        return enqueue(state.store, session, task, if_running, state.owned)

    def work(self, ticket: str, *, worker: str | None = None) -> Work:
        """The block in which a worker works on a task that waited in a queue: `with sessionstatus.work(ticket) as run`.

        `ticket` is that of the message, or the task's id: that is enough as long as the store remembers the task. Needs
        an app context and binds to its app. Entering raises, as Work says, when there is nothing to do. Raises
        InvalidValue for what is neither.

        `worker` names who works on it: processes that give one name are one worker, so that a parent can `watch` over
        its child. By default each call is a worker of its own.
        """
        return Work(self.state.engine, ticket, worker)

    def traceback(self, task: Task) -> str | None:
        """The traceback of a task that failed, as text, where `SESSIONSTATUS_STORE_TRACEBACKS` keeps it; for the host
        alone, no route shows it."""
        return self.state.store.traceback(task.session_id, task.task_id)

    def cancel(self, task: Task) -> Task | None:
        """Ask a task to stop, and return it as it then is: one that waits ends at once. None: it is not there any more.

        So a task ends whose message could not be sent.
        """
        return self.state.store.cancel(TaskRef(task.conversation_id, task.session_id, task.task_id))

    def background(
        self, type: str = "generation", **options: Any
    ) -> Callable[[Callable[Concatenate[Run, P], R]], BackgroundFunction[P, R]]:
        """Make a function, whose first argument is its run, one that can be started in the background.

        Options as for `run`. Raises TypeError for unknown ones, InvalidValue for wrong values.
        """
        chosen = Options(type).changed(options)

        def decorate(function: Callable[Concatenate[Run, P], R]) -> BackgroundFunction[P, R]:
            return BackgroundFunction(self._job, lambda job: self.state.pool.submit(job), function, chosen)

        return decorate

    def _job(
        self,
        function: Callable[..., R],
        options: Options,
        conversation_id: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Job[R]:
        """Begin a background task; see BackgroundFunction.job."""
        run = self._run(options, conversation_id, pending=True)
        run.begin()
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        return Job(app, run, function, args, kwargs)

    # Operations

    def stats(self) -> Mapping[str, int | bool | str | None]:
        """What all processes counted: see `GET /stats`."""
        return self.state.stats()

    def shutdown(self, timeout: float = SHUTDOWN) -> bool:
        """End what runs in this process: tasks that still run become errors, everything emitted is stored, streams
        close.

        Called by itself when the process ends. False when it took longer than `timeout` s. The app can be used again.
        """
        return self.state.stop(timeout)


def _add_websocket(app: Flask, path: str) -> None:
    try:
        from .http.websocket import add_websocket
    except ImportError as error:
        raise ConfigurationError(
            "SESSIONSTATUS_WEBSOCKET_PATH needs an extra: pip install flask-sessionstatus[websocket]"
        ) from error
    add_websocket(app, path)


def current_sessionstatus() -> SessionStatus:
    """The present app's. Raises RuntimeError outside of an app context."""
    return _present_state().extension


def _present_state() -> AppState:
    if not has_app_context():
        raise RuntimeError("flask-sessionstatus needs an app context: with app.app_context(): …")
    state: AppState | None = current_app.extensions.get(EXTENSION)
    if state is None:
        raise RuntimeError("This app has no SessionStatus: call init_app(app).")
    return state
