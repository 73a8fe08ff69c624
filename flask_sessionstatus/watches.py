"""Watching over the work of another process: of a child that may be killed, or that holds its interpreter for long."""

from __future__ import annotations

from collections.abc import Callable

from .engine import Engine
from .models import Json, TaskState, to_json
from .runs import END_WAIT, Run
from .stops import Stop
from .stores.base import Begun, End, SessionDraft, TaskDraft, TaskRef, Verdict
from .streaming.rest import Rest


class Watch:
    """A hold on a task that another process works on: it renews the lease, hears of a stop, and can end the task.

    Given back with `end`, `retry` or `leave`.
    """

    def __init__(self, engine: Engine, session: SessionDraft, task: TaskDraft, begun: Begun) -> None:
        self.attempt = begun.attempt
        self._engine = engine
        self._begun = session, task, begun
        self._stop = Stop()
        self._channel = engine.store.cancel_channel(TaskRef(session.conversation_id, session.session_id, task.task_id))
        self._entry = engine.outbox.open(session, task, begun.epoch, begun.tail)
        self._entry.watched = True
        self._entry.on_cancel = self._on_cancel
        engine.hub.listen(self._channel, engine.beats.wake)
        engine.beats.ensure()

    def run(self, engine: Engine) -> Run:
        """The run of what is watched over, in a child that was forked off; `engine` is the child's."""
        session, task, begun = self._begun
        run = Run(engine, session, task)
        run.go_on(begun)
        return run

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked the task to stop, or it was deleted."""
        return self._stop.requested

    def on_cancel(self, callback: Callable[[], object]) -> None:
        """Call back, from another thread, when the task is asked to stop; at once if it was."""
        self._stop.on_request(callback)

    def _on_cancel(self) -> None:
        if self._entry.stopped is Verdict.FENCED:  # left to its queue, or with another worker: no stop was asked for
            return
        self._stop.request()

    def end(
        self,
        state: TaskState,
        error_type: str | None = None,
        error_message: str | None = None,
        result: Json = None,
    ) -> None:
        """End the task for the process that cannot do so any more. One that has ended, or waits again, stays as it is.

        Waits for the store while it is reachable (at most 5 s). Raises InvalidValue when the result is no JSON.
        """
        text = None if result is None else to_json(result)
        self._end(End(state.value, error_type, error_message, text, forced=True))

    def retry(self, delay: float = 0.0) -> None:
        """As end, but leave the task to its queue, which delivers the message again; `delay` as for `Run.retry`."""
        wait = self._engine.store.limits.max_pending_age + round(delay * 1000)
        self._end(End(TaskState.PENDING.value, wait=wait))

    def _end(self, end: End) -> None:
        self._engine.hub.ignore(self._channel)
        self._engine.outbox.end(self._entry, end, None)
        self._engine.outbox.wait_while_reachable(self._entry, END_WAIT)

    def take_over(self, rest: Rest) -> None:
        """Go on storing what the other process has handed over, and linger for it; that process is done with it."""
        self._engine.hub.ignore(self._channel)
        self._engine.outbox.take_over(self._entry, rest)

    def leave(self) -> None:
        """Let go: the other process ends the task itself, or has done so."""
        self._engine.hub.ignore(self._channel)
        self._engine.outbox.leave(self._entry)
