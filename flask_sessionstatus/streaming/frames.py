"""How events look on the wire: server-sent events, the AI SDK's UI message stream, JSON frames.

Server-sent events: HTML Living Standard, section 9.2. `retry:` and comments stand as lines without a blank line after
them: some clients make an empty event of a lone block.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

from ..models import Cursor, Event, Task, TaskState, to_json

RETRY_MS = 1000


class Wire(ABC):
    """One way of writing a stream: each method gives the bytes of one frame, empty where this wire has none."""

    headers: ClassVar[Mapping[str, str]] = {}

    def opening(self, later: int = 0) -> bytes:
        """The first bytes of a stream, and all of one that is shed: once it is closed, the client comes back after
        RETRY_MS, or so many ms later."""
        return f"retry: {RETRY_MS + later}\n".encode()

    def ping(self) -> bytes:
        return b": ping\n"

    def closing(self, later: Callable[[], int] = lambda: 0) -> bytes:
        """The last bytes of a stream that is closed before its end; the client goes on elsewhere. `later` is asked, if
        this wire says so, how much later than usual (ms)."""
        return self.opening(later())

    @abstractmethod
    def event(self, event: Event) -> bytes:
        """An event of the log."""

    @abstractmethod
    def status(self, task: Task) -> bytes:
        """Progress or state."""

    @abstractmethod
    def gap(self, requested: Cursor, first: Cursor) -> bytes:
        """Events are missing: the follower asked for what came after `requested` and gets `first` next."""

    @abstractmethod
    def end(self, cursor: Cursor, data: str) -> bytes:
        """The last frame; nothing may follow."""


class ServerSentEvents(Wire):
    """`id:`, `event:` and `data:` for each event; frames that are no event of the log carry no id."""

    def event(self, event: Event) -> bytes:
        return f"id: {event.cursor}\nevent: {event.type}\ndata: {event.json}\n\n".encode()

    def status(self, task: Task) -> bytes:
        return f"event: status\ndata: {to_json(_status(task))}\n\n".encode()

    def gap(self, requested: Cursor, first: Cursor) -> bytes:
        return f"event: gap\ndata: {to_json(_gap(requested, first))}\n\n".encode()

    def end(self, cursor: Cursor, data: str) -> bytes:
        return f"id: {cursor}\nevent: end\ndata: {data}\n\n".encode()


class UiMessageStream(Wire):
    """The AI SDK's UI message stream: bare `data:` frames, then `[DONE]`.

    `id:` lines are accepted and ignored there. What is no part of that protocol is a transient `data-…` part: any other
    JSON is an error to its clients.
    """

    headers: ClassVar[Mapping[str, str]] = {"x-vercel-ai-ui-message-stream": "v1"}

    def closing(self, later: Callable[[], int] = lambda: 0) -> bytes:
        # To these clients a clean close is a finished answer.
        part = {"type": "error", "errorText": "The stream was closed here; it can be resumed."}
        return f"data: {to_json(part)}\n\n".encode()

    def event(self, event: Event) -> bytes:
        data = event.json
        if event.type == "attempt":
            data = to_json({"type": "data-attempt", "data": event.data, "transient": True})
        return f"id: {event.cursor}\ndata: {data}\n\n".encode()

    def status(self, task: Task) -> bytes:
        return b""

    def gap(self, requested: Cursor, first: Cursor) -> bytes:
        part = {"type": "data-gap", "data": _gap(requested, first), "transient": True}
        return f"data: {to_json(part)}\n\n".encode()

    def end(self, cursor: Cursor, data: str) -> bytes:
        ended = json.loads(data)
        part: dict[str, str] | None = None
        if ended["state"] == TaskState.CANCELLED:
            part = {"type": "abort"}
        elif ended["state"] != TaskState.COMPLETED:
            part = {"type": "error", "errorText": ended["errorMessage"] or f"The task is {ended['state']}."}
        failure = f"data: {to_json(part)}\n\n" if part is not None else ""
        return f"{failure}id: {cursor}\ndata: [DONE]\n\n".encode()


class JsonFrames(Wire):
    """`{"cursor", "type", "data"}` for each event, a line each; frames that are no event of the log have no cursor.

    Keeping the connection alive, and the way it is closed, are not of this wire.
    """

    def opening(self, later: int = 0) -> bytes:
        return b""

    def ping(self) -> bytes:
        return b""

    def closing(self, later: Callable[[], int] = lambda: 0) -> bytes:
        return b""

    def event(self, event: Event) -> bytes:
        return json_frame(event.type, event.json, event.cursor)

    def status(self, task: Task) -> bytes:
        return json_frame("status", to_json(_status(task)))

    def gap(self, requested: Cursor, first: Cursor) -> bytes:
        return json_frame("gap", to_json(_gap(requested, first)))

    def end(self, cursor: Cursor, data: str) -> bytes:
        return json_frame("end", data, cursor)


def json_frame(type: str, data: str, cursor: Cursor | None = None) -> bytes:
    """A frame of JsonFrames: a line; `data` is JSON text, which has no raw line break."""
    place = "null" if cursor is None else f'"{cursor}"'
    return f'{{"cursor":{place},"type":{to_json(type)},"data":{data}}}\n'.encode()


def _status(task: Task) -> dict[str, object]:
    """What is shown of a task beside its events."""
    progress = task.progress
    return {
        "state": task.state.value,
        "attempt": task.attempt,
        "current": progress.current,
        "total": progress.total,
        "note": progress.message,
        "estimatedCompletion": task.estimated_completion,
    }


def _gap(requested: Cursor, first: Cursor) -> dict[str, str]:
    return {"requested": str(requested), "firstAvailable": str(first)}


JSON_FRAMES = JsonFrames()
WIRES: Mapping[str, Wire] = {"sse": ServerSentEvents(), "ai-sdk": UiMessageStream()}


def end_data(
    task_id: str | None, state: TaskState, error_type: str | None = None, error_message: str | None = None
) -> str:
    """The data of an end frame as JSON text; without a task it is the session's end."""
    return to_json({"state": state.value, "errorType": error_type, "errorMessage": error_message, "taskId": task_id})
