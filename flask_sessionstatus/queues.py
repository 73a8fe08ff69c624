"""Work that waits in a queue of the host's: put there as a pending task, taken up by a worker in any process.

    task = sessionstatus.enqueue(conversation_id)
    my_queue.put(task.ticket)

    with app.app_context(), sessionstatus.work(ticket) as run:     # in the worker
        ...

The queue may deliver a message twice, late, or not at all: a task is worked on by one worker at a time, and once it
has completed or was stopped by none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TypeVar
from uuid import uuid4

from .engine import Engine
from .errors import AlreadyStarted, Cancelled, InvalidValue, NotFound, StoreUnavailable
from .models import Task, TaskState, check_id
from .runs import Run, see_through, task_of
from .stores.base import Begun, SessionDraft, Store, TaskDraft, TaskRef
from .tickets import Ticket
from .watches import Watch

RECOVERY_POLL = 0.25

T = TypeVar("T")


def enqueue(store: Store, session: SessionDraft, task: TaskDraft, if_running: str, own: bool) -> Task:
    """Begin a task as pending, without a lease; see SessionStatus.enqueue."""
    try:
        begun = _repeated(lambda: store.begin(session, task, if_running, own))
    except AlreadyStarted as started:
        return _again(store, started.task, task.idempotency_key)
    session = replace(session, created_at=begun.session_created_at, namespace_id=begun.namespace_id, key=begun.key)
    task = replace(task, epoch=begun.epoch, created_at=begun.task_created_at)
    until = begun.now + store.limits.max_pending_age + task.delay
    return replace(
        task_of(session, task, begun.epoch, begun.tail), deadline=until, ticket=str(Ticket(session, task, until))
    )


def _again(store: Store, first: Task, idempotency_key: str | None) -> Task:
    """The task that a used key gives; as long as it waits with its ticket: its message may never have been sent."""
    ticket = _recalled(store, first) if first.state is TaskState.PENDING else None
    if ticket is None:
        return first
    return replace(first, ticket=str(replace(ticket, task=replace(ticket.task, idempotency_key=idempotency_key))))


def _recalled(store: Store, task: Task) -> Ticket | None:
    """The ticket of a task that the store knows."""
    session = store.session(task.session_id)
    if session is None:
        return None
    return Ticket(
        SessionDraft(
            session_id=session.session_id,
            conversation_id=session.conversation_id,
            namespace_id=session.namespace_id,
            language=session.language,
            device_type=session.device_type,
            client_version=session.client_version,
            metadata=session.metadata,
            created_at=session.created_at,
            key=session.key,
        ),
        TaskDraft(
            task_id=task.task_id,
            token=uuid4().hex,
            type=task.type,
            wire=task.wire,
            attempt=task.attempt,
            pending=True,
            leased=False,
            epoch=task.epoch,
            created_at=task.created_at,
        ),
        until=task.deadline or 0,
    )


class Work:
    """The block in which a worker works on a task that waited in a queue: `with sessionstatus.work(ticket) as run`.

    Entering it begins an attempt. It raises, and then nothing of the block is run,
    - Cancelled when the task was stopped or deleted while it waited: there is nothing (more) to do;
    - AlreadyStarted when it has completed: the message was delivered twice;
    - TaskRunning while another worker works on it: the message should come again later, since that one may die;
    - NotFound when the store does not know it and its ticket, if there is one, is too old;
    - StoreUnavailable.

    A worker that takes no part in the queue's retries writes

        try:
            with sessionstatus.work(ticket) as run:
                ...
        except (Cancelled, AlreadyStarted):
            pass                                # done with

    Inside the block Cancelled is swallowed, as in that of `run`: a task that is stopped while it runs ends there.
    """

    def __init__(self, engine: Engine, ticket: str, worker: str | None = None) -> None:
        if not isinstance(ticket, str):
            raise InvalidValue(f"A ticket or a task's id is a text, not {type(ticket).__name__}.")
        self._engine = engine
        self._token = f"worker {check_id(worker, 'worker')}" if worker is not None else uuid4().hex
        self._ticket = Ticket.parse(ticket) if ticket.startswith("{") else None
        self._task_id = self._ticket.task.task_id if self._ticket is not None else check_id(ticket, "taskId")
        self._run: Run | None = None

    def begin(self) -> Run:
        """Begin an attempt and return its run, outside of a block: for integrations, which enter and leave it by hooks.

        Raises as entering the block does.
        """
        session, task, begun = self._claim()
        self._run = Run(self._engine, session, task)
        self._run.go_on(begun)
        return self._run

    def watch(self) -> Watch:
        """Watch over the attempt that another process of the same `worker` works on, or is about to begin.

        Raises as entering the block does.
        """
        return Watch(self._engine, *self._claim())

    def join(self) -> Watch | None:
        """As watch, but begin nothing: None when no process of this `worker` has begun an attempt, or when it is over.

        Raises Cancelled when the task was deleted, NotFound, and StoreUnavailable.
        """
        ticket = self._ticket_to_use()
        begun = self._engine.store.claimed(self._ref(ticket), self._token)
        return None if begun is None else Watch(self._engine, ticket.session, self._draft(ticket.task, begun), begun)

    def waits(self) -> bool:
        """Whether the task is pending. Raises as join does."""
        ref = self._ref(self._ticket_to_use())
        task = self._engine.store.task(ref.session_id, ref.task_id)
        return task is not None and task.state is TaskState.PENDING

    def stop(self) -> Task | None:
        """Ask the task to stop: its message will not be worked on. None: there is no such task. Raises as join does."""
        return self._engine.store.cancel(self._ref(self._ticket_to_use()))

    @property
    def lease(self) -> float:
        """For how long a worker that has died still looks alive, in s."""
        return self._engine.store.limits.lease / 1000

    def _ticket_to_use(self) -> Ticket:
        if self._engine.closing:
            raise StoreUnavailable("This process is ending. Try again in a moment.")
        return self._ticket or self._found(self._engine.store)

    def _ref(self, ticket: Ticket) -> TaskRef:
        return TaskRef(ticket.session.conversation_id, ticket.session.session_id, self._task_id)

    def _claim(self) -> tuple[SessionDraft, TaskDraft, Begun]:
        store = self._engine.store
        ticket = self._ticket_to_use()
        ref = self._ref(ticket)
        begun = _repeated(lambda: store.claim(ref, self._token))
        while begun is None and store.recovering:  # whoever has it may be about to make it again
            time.sleep(RECOVERY_POLL)
            begun = store.claim(ref, self._token)
        if begun is None:
            self._make_again(store, ticket)
            begun = _repeated(lambda: store.claim(ref, self._token))
        if begun is None:
            raise self._unknown()
        return ticket.session, self._draft(ticket.task, begun), begun

    def _draft(self, task: TaskDraft, begun: Begun) -> TaskDraft:
        """What it takes to make the running attempt again."""
        return replace(
            task,
            token=self._token,
            attempt=begun.attempt,
            pending=bool(begun.stopping),
            leased=True,
            epoch=None,
            created_at=begun.task_created_at,
        )

    def _found(self, store: Store) -> Ticket:
        try:
            task = store.find_task(self._task_id)
        except NotFound as error:
            raise Cancelled("The session was deleted.", **error.ids) from error
        ticket = _recalled(store, task) if task is not None else None
        if ticket is None:
            raise self._unknown()
        return ticket

    def _make_again(self, store: Store, ticket: Ticket) -> None:
        """Make the task again as it waited; the store has lost it."""
        if store.snapshot(ticket.session.conversation_id).now >= ticket.until:
            raise self._unknown()
        try:
            _repeated(lambda: store.begin(ticket.session, ticket.task, own=False))
        except NotFound as error:
            raise Cancelled("The session was deleted.", **error.ids) from error

    def _unknown(self) -> NotFound:
        return NotFound(
            "There is no such task: it was never there, has expired, or was lost and has a ticket that is too old.",
            taskId=self._task_id,
        )

    def __enter__(self) -> Run:
        run = self.begin()
        run.__enter__()
        if run.cancelled:
            error = self._stopped()
            run.__exit__(Cancelled, error, None)
            raise error
        return run

    def _stopped(self) -> Cancelled:
        return Cancelled("The task was stopped before it began.", taskId=self._task_id)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        assert self._run is not None
        return self._run.__exit__(kind, error, trace)

    async def __aenter__(self) -> Run:
        try:
            run = await see_through(self.begin)
        except asyncio.CancelledError:
            if self._run is not None:
                await see_through(partial(self._run.finish, TaskState.CANCELLED))
            raise
        await run.__aenter__()
        if run.cancelled:
            error = self._stopped()
            await run.__aexit__(Cancelled, error, None)
            raise error
        return run

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        assert self._run is not None
        return await self._run.__aexit__(kind, error, trace)


def _repeated(call: Callable[[], T]) -> T:
    """The call's answer; asked for twice when it may have got lost: the store tells a repeated call by its token."""
    try:
        return call()
    except StoreUnavailable:
        return call()
