"""The socket of a session: its events go out as JSON texts, what the client says comes in.

Everything is checked before the handshake is answered, so refusals are HTTP statuses. The socket is served while the
server asks for the response's body: by then the request is over and holds none of the host's resources.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from flask import Response, current_app, request

from ..errors import BadRequest, Forbidden, InvalidValue, SessionStatusError, StoreUnavailable
from ..models import ORIGIN, Cursor, Json, Message, Session, to_json
from ..state import AppState, app_state
from ..stores.base import TaskRef
from ..streaming.frames import JSON_FRAMES, json_frame
from ..streaming.session import Outcome, SessionFrames
from . import connection as codes
from .access import caller, session_for_caller, unknown
from .body import parse_json
from .connection import Connection
from .errors import body_of
from .streams import still_allowed, task_of_cursor

if TYPE_CHECKING:
    from flask import Flask

log = logging.getLogger("flask_sessionstatus")

CLOSES: Mapping[Outcome | None, tuple[int, str]] = {
    Outcome.OVER: (codes.NORMAL, "The session is over."),
    Outcome.CLOSING: (codes.GOING_AWAY, "This process is ending."),
    Outcome.REFUSED: (codes.POLICY_VIOLATION, "This conversation is not yours to see."),
}


def add_websocket(app: Flask, path: str) -> None:
    """Add the route `{path}?session_id=&cursor=` to the app."""
    app.add_url_rule(path, "sessionstatus_websocket", open_socket, websocket=True)


def open_socket() -> Response:
    """The view: a response whose body is the socket's life.

    Raises Forbidden for a page of another origin, and what `session_for_caller` raises.
    """
    state = app_state()
    _check_origin(state.settings.websocket_origins)
    session = session_for_caller(state, request.args.get("session_id", ""))
    text = request.args.get("cursor")
    cursor = Cursor.parse(text) if text else None
    connection = Connection(request.environ, state.settings.max_body_bytes)
    (there,) = state.store.touch([session.session_id])
    if isinstance(there, Exception):
        raise there
    if not there:
        raise unknown(state, "Session not found", sessionId=session.session_id)
    after, gone = _start(state, session, cursor)
    frames = SessionFrames(
        state.engine.hub,
        session.conversation_id,
        session.session_id,
        after,
        JSON_FRAMES,
        allowed=still_allowed(state, caller(state), session.conversation_id),
        gone=gone,
    )
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    body = SessionSocket(app, state, session, connection, frames)
    return Response(body, mimetype="application/octet-stream", direct_passthrough=True)


def _check_origin(others: tuple[str, ...]) -> None:
    """A browser says which page connects (RFC 6455, 10.2): without this, any page could, with the user's cookies."""
    origin = request.headers.get("Origin")
    if origin is None:
        return
    scheme = "https" if request.is_secure else "http"
    if origin.lower() not in (f"{scheme}://{request.host}".lower(), *others):
        raise Forbidden(f"Pages of {origin} may not connect: they are not in SESSIONSTATUS_WEBSOCKET_ORIGINS.")


def _start(state: AppState, session: Session, cursor: Cursor | None) -> tuple[Cursor, Cursor | None]:
    """After which cursor a socket goes on; the second value is the client's when it is one of nothing that is here.

    Without a cursor it begins where the latest task does; `0-0` is before everything.
    """
    if cursor == ORIGIN:
        return ORIGIN, None
    latest = session.latest_task
    if latest is not None and latest.foreign:
        task, gone = task_of_cursor(state.store, cursor, latest, (), [latest])
    else:
        task, gone = task_of_cursor(state.store, cursor, latest, [session.session_id])
    if cursor is not None and gone is None and task is not None:
        if not (task.state.terminal and cursor > task.cursor):
            return cursor, None
        gone = cursor
    if latest is None or latest.foreign:  # which has a stream of its own
        return ORIGIN, gone
    ref = TaskRef(session.conversation_id, session.session_id, latest.task_id)
    page = state.store.events(ref, ORIGIN, 0)
    first = page.first if page is not None else None
    return Cursor(first.epoch if first is not None else latest.epoch), gone


class SessionSocket:
    """The body of a response that is a socket: empty, and exhausted once the socket is closed."""

    def __init__(
        self, app: Flask, state: AppState, session: Session, connection: Connection, frames: SessionFrames
    ) -> None:
        self._app = app
        self._hooks = state.hooks
        self._engine = state.engine
        self._session = session
        self._connection = connection
        self._frames = frames

    def __iter__(self) -> Iterator[bytes]:
        try:
            self._connection.accept()
        except OSError:
            return
        hub = self._engine.hub
        if hub.take_place():
            try:
                self._serve()
            finally:
                hub.give_place_back()
        else:
            self._connection.say_close(codes.TRY_AGAIN_LATER, "Too many are connected here.")
            self._connection.finish()
        yield from ()

    def _serve(self) -> None:
        """Hear the client in this thread, speak to it in another, until one of them ends it."""
        speaker = threading.Thread(target=self._speak, name="sessionstatus-socket", daemon=True)
        speaker.start()
        try:
            self._engine.presence.enter(self._session.session_id)
            while (message := self._connection.receive()) is not None:
                self._hear(message)
        finally:
            self._frames.stop()
            self._connection.finish()
            speaker.join()
            self._engine.presence.leave(self._session.session_id)
            self._write_tallies()

    def _speak(self) -> None:
        try:
            for frames in self._frames:
                self._connection.send(_texts(frames))
            self._connection.close(*CLOSES.get(self._frames.outcome, (codes.NORMAL, "")))
        except OSError as error:
            log.info("The socket of session %s is closed: %s", self._session.session_id[:8], error)
        except Exception:  # whatever went wrong, the client must be able to come again
            log.exception("The socket of session %s failed.", self._session.session_id[:8])
            self._connection.close(codes.INTERNAL_ERROR)

    def _hear(self, said: str | bytes) -> None:
        """Hand a message to the host, and its answer to the client."""
        try:
            message = self._read(said)
        except (BadRequest, InvalidValue) as error:
            self._tell("error", {"error": error.message})
            return
        on_message = self._hooks.on_message
        if on_message is None:
            self._tell("error", {"error": "Nobody here listens to messages."})
            return
        try:
            with self._app.app_context():
                answer = on_message(self._session, message)
            _check_answer(answer)
        except SessionStatusError as error:  # such as TaskRunning: what a route would answer
            log.info("A message of session %s was refused: %s", self._session.session_id[:8], error)
            self._tell("error", body_of(error))
            return
        except Exception:  # the host's, of which the client learns no details
            log.exception("A message of session %s could not be handled.", self._session.session_id[:8])
            self._tell("error", {"error": "The message could not be handled."})
            return
        if message.data is not None:
            self._count("audio_processed")
        if answer is not None:
            self._tell("reply", answer)

    def _read(self, said: str | bytes) -> Message:
        if isinstance(said, bytes):
            self._count("audio_received")
            return Message(data=said)
        return Message(json=parse_json(said, "The message"))

    def _tell(self, type: str, data: Json) -> None:
        try:
            self._connection.send(_texts(json_frame(type, to_json(data))))
        except OSError as error:
            log.info("The socket of session %s is closed: %s", self._session.session_id[:8], error)

    def _count(self, field: str) -> None:
        self._engine.tallies.add(self._session.session_id, {field: 1})

    def _write_tallies(self) -> None:
        try:
            self._engine.tallies.write()
        except StoreUnavailable:
            log.info("What was counted of session %s is written later.", self._session.session_id[:8])


def _check_answer(answer: Json) -> None:
    """Raise TypeError for what is no JSON: a mistake of the host's, not of the client's."""
    try:
        to_json(answer)
    except InvalidValue as error:
        raise TypeError(f"on_message must return JSON or None. {error.message}") from None


def _texts(frames: bytes) -> list[str]:
    """The texts of JSON frames, which are lines."""
    return [line.decode() for line in frames.split(b"\n") if line]
