"""Handing over what was written in an outage. All of it may be broken off at any point, and is then begun again:
whatever got through the first time is known by its id, token, number or place."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from ...errors import SessionStatusError, StoreUnavailable
from ...models import ORIGIN, Cursor, Session, Turn, utf8_size
from ..base import Store, StoreAway, Tally, TaskRef
from ..codec import encode_turn
from ..redis.restoring import Restoring
from .books import Bundle
from .clock import StoreClock
from .gate import Gate
from .outage import BATCH_BYTES, OutageMemory

log = logging.getLogger("flask_sessionstatus")

HOLD, LONGEST_HOLD = 1.0, 8.0
"""Seconds for which writers may be kept waiting: the first time, and where they write more than can be handed over in
that. Much less than a lease."""

FEW = 32
"""So many sessions may be left for the moment in which writers wait; more, where those at work do not get fewer."""

PASSES = 20
PATIENCE = 20
"""How often a session may be refused, while others are taken, before it is given up."""

BATCH_TURNS = 96
LOOKED_BACK = 256
BATCH_TALLIES = 128


@dataclass
class Amount:
    """How much was handed over, of which sessions; `dropped` are those that were deleted there, or are somebody
    else's."""

    session_ids: set[str] = field(default_factory=set)
    turns: int = 0
    events: int = 0
    dropped: int = 0

    def __str__(self) -> str:
        said = f"{len(self.session_ids)} sessions, {self.turns} turns and {self.events} events were handed over"
        return f"{said}, {self.dropped} sessions were dropped" if self.dropped else said


class _TimeIsUp(Exception):
    """Writers have waited for as long as they may."""


class HandOver:
    """From the memory of an outage to the store that is back, through `restoring`; `gate` holds the writers.

    `clock` is the memory's. `on_session` is told each session that was handed over.
    """

    def __init__(
        self,
        memory: OutageMemory,
        store: Store,
        restoring: Restoring,
        gate: Gate,
        clock: StoreClock,
        on_session: Callable[[Session], None] = lambda _: None,
    ) -> None:
        self.amount = Amount()
        self._memory = memory
        self._store = store
        self._restoring = restoring
        self._gate = gate
        self._clock = clock
        self._own_time = not clock.is_set
        self._on_session = on_session
        self._refusals: dict[str, int] = {}
        self._broken_off = False
        self._hold = HOLD
        self._until: float | None = None
        self._replacements = restoring.replacements
        # Of this attempt: of which sessions the names and places were taken, and up to where tasks' events are there.
        self._placed: dict[str, tuple[str, int]] = {}
        self._reached: dict[TaskRef, Cursor] = {}

    def attempt(self, on_done: Callable[[], None]) -> bool:
        """Hand over all there is; then, with nobody writing, what was written meanwhile, and call `on_done`.

        False when there was always more. Raises StoreUnavailable when the store is (again) away.
        """
        self._restoring.answer()
        self._store.ping()
        self._placed.clear()
        self._reached.clear()
        if self._broken_off:
            self._doubt()
        self._broken_off = True
        for _ in range(PASSES):
            before, began = len(self._memory.unhanded), time.monotonic()
            self._pass()
            left = len(self._memory.unhanded)
            took = time.monotonic() - began  # with nobody in the way the next pass takes hardly longer
            if left <= FEW or left > before * 3 // 4:
                done = self._finish(on_done, self._hold if left <= FEW else min(max(self._hold, took), LONGEST_HOLD))
                self._broken_off = False
                return done
        self._broken_off = False
        return False

    def _doubt(self) -> None:
        """What was handed over before may have got lost since, with the server that had it."""
        self._memory.doubt()
        self._placed.clear()
        self._reached.clear()
        self.amount = Amount(dropped=self.amount.dropped)
        self._replacements = self._restoring.replacements

    def _finish(self, on_done: Callable[[], None], hold: float) -> bool:
        self._until = time.monotonic() + hold
        done = False
        try:
            if not self._gate.hold(hold):
                return False
            try:
                done = self._pass()
                if done:
                    on_done()
                    self._set_clock()
            finally:
                self._gate.release(shut=done)
        except _TimeIsUp:
            self._hold = min(2 * self._hold, LONGEST_HOLD)
        finally:
            self._until = None
        return done

    def _look_at_time(self) -> None:
        if self._until is not None and time.monotonic() > self._until:
            raise _TimeIsUp

    def _now(self) -> int | None:
        """What the memory's clock shows, where it was never set by the store's."""
        return self._clock() if self._own_time else None

    def _set_clock(self) -> None:
        """Lest the next outage begins before anything else was heard of the time."""
        if self._own_time:
            try:
                self._clock.learn(self._restoring.now())
            except StoreUnavailable:
                pass

    def _pass(self) -> bool:
        """Hand over, once each, what has been written so far; False when something was refused. Raises _TimeIsUp."""
        memory, complete = self._memory, True
        if self._restoring.replacements != self._replacements:
            self._doubt()
        for session_id in list(memory.deleted):
            complete = self._see_to(session_id, self._bury, lambda _: None) and complete
        for _ in range(len(memory.unhanded)):
            following = memory.next_unhanded()
            if following is not None:
                complete = self._see_to(following, self._session, memory.touched) and complete
        while memory.strays:
            self._look_at_time()
            some = memory.strays[:BATCH_TALLIES]
            self._tallies(some)
            del memory.strays[: len(some)]
        self._durations()
        return complete and self._restoring.replacements == self._replacements

    def _see_to(self, session_id: str, step: Callable[[str], None], again: Callable[[str], None]) -> bool:
        """Take a step for a session, or note that it is to be taken `again`; False when it was refused.

        Raises StoreAway. One session that cannot be stored must not keep the others in memory for ever.
        """
        try:
            self._look_at_time()
            step(session_id)
        except StoreAway:
            again(session_id)
            raise
        except SessionStatusError as error:
            again(session_id)
            self._refused(session_id, error)
            return False
        except BaseException:
            again(session_id)
            raise
        self._refusals.pop(session_id, None)
        return True

    def _refused(self, session_id: str, error: SessionStatusError) -> None:
        """Give a session up that was refused again and again; while nothing can be stored, none is."""
        self._store.totals()
        count = self._refusals[session_id] = self._refusals.get(session_id, 0) + 1
        if count >= PATIENCE:
            log.error("Session %s could not be handed over, and is lost: %s", session_id[:8], error)
            self._drop(session_id)

    def _drop(self, session_id: str) -> None:
        self._memory.refused(session_id)
        self._memory.unhanded.pop(session_id, None)
        self._memory.deleted.pop(session_id, None)
        self.amount.dropped += 1

    # One session

    def _bury(self, session_id: str) -> None:
        deleted = self._memory.deleted.get(session_id)
        if deleted is None:
            return
        life = deleted.until - self._clock()
        self._restoring.bury(session_id, deleted.conversation_id, deleted.namespace_id, deleted.task_ids, life=life)
        self._memory.took_deleted(session_id)

    def _session(self, session_id: str) -> None:
        if self._memory.is_doubted(session_id):
            turns = self._store.turns(session_id, None, LOOKED_BACK)
            self._memory.has_turns(session_id, {turn.turn_id for turn in turns or ()})
        bundle = self._memory.bundle(session_id)
        if bundle is None:
            return
        for ref in bundle.stops:
            self._store.cancel(ref)
            self._memory.took_stop(ref)
        verdict = self._send(bundle)
        if verdict == "absent":  # it was there before, and is lost: as much as is known of it is made again
            bundle = self._memory.bundle(session_id, whole=True)
            if bundle is None:
                return
            verdict = self._send(bundle) if bundle.session.fields is not None else "deleted"
        if verdict != "stored":
            why = "it was deleted" if verdict == "deleted" else "it is somebody else's"
            log.warning("Session %s was written here while Redis was away, and dropped: %s.", session_id[:8], why)
            if verdict == "conflict":  # its tasks run on, and must not make it there themselves
                conversation_id = bundle.session.draft.conversation_id
                self._restoring.refuse(session_id, conversation_id, [ref.task_id for ref in bundle.tasks])
            self._drop(session_id)
            return
        self.amount.session_ids.add(session_id)
        self.amount.turns += len(bundle.session.turns)
        for ref in bundle.tasks:
            self._look_at_time()
            self._task(ref)
        self._tallies(bundle.tallies)  # always all of them: those that it has are known by their numbers
        # Where its times were another clock's they are others there.
        session = self._store.session(session_id) if self._own_time else self._memory.as_known(session_id)
        if session is not None and (session.latest_task is None or not session.latest_task.foreign):
            self._on_session(session)

    def _send(self, bundle: Bundle) -> str:
        """Send a session, its turns in batches; how the store took it.

        Each batch is taken note of: the next attempt repeats one at most, so far back a store looks for what it has.
        """
        carried, turns, session_id = bundle.session, bundle.session.turns, bundle.session.draft.session_id
        made = carried.draft.conversation_id, carried.created_at
        for some in _in_batches(turns):
            self._look_at_time()
            first = some[0].position if some else carried.first
            batch = replace(carried, turns=some, first=first, now=self._now())
            verdict = self._restoring.session(batch, placed=self._placed.pop(session_id, None) == made)
            if verdict != "stored":
                break
            self._placed[session_id] = made
            behind = some[-1].position + 1 if some and some[-1] is not turns[-1] else bundle.position
            self._memory.took_session(session_id, bundle, behind)
        return verdict

    def _task(self, ref: TaskRef) -> None:
        last = self._reached.get(ref)
        carried = self._memory.task_bundle(ref, last or ORIGIN, only_look=last is None)
        while True:
            if carried is None:
                return
            self._look_at_time()
            verdict, last = self._restoring.task(replace(carried, now=self._now()))
            if verdict == "stored":
                self._reached[ref] = last
                self.amount.events += len(carried.events)
            # It needs more also when another server answers than before, and has less.
            if verdict not in ("stored", "need") or (carried.complete and verdict == "stored"):
                break
            carried = self._memory.task_bundle(ref, last)
        if verdict == "missing":
            raise StoreUnavailable("The session went away while its task was handed over.")
        if verdict not in ("stored", "closed"):
            log.warning("Task %s was worked on while Redis was away, and gives way: %s.", ref.task_id[:8], verdict)
        self._memory.took_task(carried)

    def _tallies(self, tallies: Sequence[Tally]) -> None:
        for answer in self._store.tally(tallies) if tallies else ():
            if isinstance(answer, StoreUnavailable):
                raise answer

    def _durations(self) -> None:
        """A duration whose answer is lost is not told again: better one too few than one twice."""
        while self._memory.durations:
            self._look_at_time()
            self._store.record_duration(*self._memory.durations.popleft())


def _in_batches(turns: Sequence[Turn]) -> Iterator[Sequence[Turn]]:
    """At most BATCH_TURNS and 256 KiB at a time; where there are none, none once."""
    batch: list[Turn] = []
    size = 0
    for turn in turns:
        size += utf8_size(encode_turn(turn))
        if batch and (len(batch) == BATCH_TURNS or size > BATCH_BYTES):
            yield batch
            batch, size = [], utf8_size(encode_turn(turn))
        batch.append(turn)
    yield batch
