"""Which of the two stores counts: Redis, or from the call that found it away the memory of that outage, until all of
it is handed over."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from ...errors import StoreUnavailable
from ..base import OnWakeup, Store, StoreAway, Wakeups
from ..redis import RedisStore
from .clock import StoreClock
from .gate import Gate
from .handover import HandOver
from .mirror import Mirror
from .outage import OutageMemory
from .wakeups import FallbackWakeups

log = logging.getLogger("flask_sessionstatus")

T = TypeVar("T")
A = TypeVar("A")

MIN_PAUSE, MAX_PAUSE = 0.1, 0.5
"""Seconds between two looks whether Redis is back."""

QUIET = 60.0
"""Seconds: so long a Redis that comes and goes is not reported again."""


class Outage:
    """From the call that found Redis away until all is handed over. `listed` are the namespaces that were adopted."""

    def __init__(self, memory: OutageMemory, hand_over: HandOver, gate: Gate) -> None:
        self.memory = memory
        self.hand_over = hand_over
        self.gate = gate
        self.listed: set[str | None] = set()
        self.trying = threading.Lock()


class Switch:
    """Leads each call to where it belongs; `mirror` is what was known of `store`, behind which is `redis`."""

    def __init__(self, store: Store, redis: RedisStore, clock: StoreClock, mirror: Mirror) -> None:
        self._store = store
        self._redis = redis
        self._clock = clock
        self._mirror = mirror
        self._lock = threading.Lock()
        self._turning = threading.Lock()
        self._outage: Outage | None = None
        self._wakeups: list[FallbackWakeups] = []
        self._closed = threading.Event()
        self._reported_at = float("-inf")
        self._reported = False

    @property
    def outage(self) -> Outage | None:
        """The outage that is."""
        return self._outage

    def read(self, conversation_id: str | None, there: Callable[[], T], here: Callable[[OutageMemory], T]) -> T:
        """What Redis answers, or else the memory, once the conversation was adopted."""
        outage = self._outage
        if outage is None:
            try:
                return there()
            except StoreUnavailable as error:
                outage = self._outage_of(error)
        if conversation_id is not None:
            self.adopt(outage, conversation_id)
        return here(outage.memory)

    def write(
        self,
        session_id: str | None,
        conversation_id: str | None,
        there: Callable[[], T],
        here: Callable[[OutageMemory], T],
    ) -> T:
        """As `read`, and the session is to be handed over."""
        while True:
            outage = self._outage
            if outage is None:
                try:
                    return there()
                except StoreUnavailable as error:
                    outage = self._outage_of(error)
            if outage.gate.enter():
                try:
                    if conversation_id is not None:
                        self.adopt(outage, conversation_id)
                    with outage.memory.writing([session_id] if session_id is not None else []):
                        return here(outage.memory)
                finally:
                    outage.gate.leave()

    def write_each(
        self,
        items: Sequence[T],
        at: Callable[[T], tuple[str, str | None]],
        there: Callable[[Sequence[T]], Sequence[A | Exception]],
        here: Callable[[OutageMemory, Sequence[T]], Sequence[A | Exception]],
    ) -> Sequence[A | Exception]:
        """As `write`, for items that stand each for itself; `at` gives an item's session and conversation."""
        answers: list[A | Exception] = []
        left = items
        while True:
            outage = self._outage
            if outage is None:
                away: StoreAway
                try:
                    answers = list(there(items))
                    failed = [answer for answer in answers if isinstance(answer, StoreAway)]
                    if not failed:
                        return answers
                    away = failed[0]
                except StoreAway as error:
                    answers, away = [error] * len(items), error
                outage = self._begin_outage(away)
                left = [item for item, answer in zip(items, answers) if isinstance(answer, StoreAway)]
            if not outage.gate.enter():
                answers, left = [], items
                continue
            try:
                places = list(map(at, left))
                for _, conversation_id in places:
                    if conversation_id is not None:
                        self.adopt(outage, conversation_id)
                with outage.memory.writing([session_id for session_id, _ in places]):
                    found = iter(here(outage.memory, left))
            finally:
                outage.gate.leave()
            if left is items:
                return list(found)
            return [next(found) if isinstance(answer, StoreAway) else answer for answer in answers]

    def adopt(self, outage: Outage, conversation_id: str) -> None:
        """Take what was known of a conversation into the memory of an outage."""
        if outage.memory.knows_of(conversation_id):
            return
        known = self._mirror.conversation(conversation_id)
        if known is not None:
            outage.memory.adopt(conversation_id, known, self._mirror.turns)

    # The begin of an outage and its end

    def _outage_of(self, error: StoreUnavailable) -> Outage:
        """The outage that an error is a part of. Raises the error when it is none: a refusal, or a crowd."""
        outage = self._outage
        if outage is not None:
            return outage
        if not isinstance(error, StoreAway):
            raise error
        return self._begin_outage(error)

    def _begin_outage(self, error: StoreAway) -> Outage:
        with self._lock:
            if self._outage is not None:
                return self._outage
            memory, gate = OutageMemory(self._store.limits, self._store, self._clock), Gate()
            restoring, on_session = self._redis.restoring, self._mirror.saw_session
            hand_over = HandOver(memory, self._store, restoring, gate, self._clock, on_session)
            self._outage = outage = Outage(memory, hand_over, gate)
            self._report_begin(error)
            if not self._closed.is_set():
                threading.Thread(
                    target=self._wait_for_return, args=(outage,), name="sessionstatus-fallback", daemon=True
                ).start()
        self._turn()
        return outage

    def _wait_for_return(self, outage: Outage) -> None:
        while not self._closed.wait(random.uniform(MIN_PAUSE, MAX_PAUSE)):
            try:
                if self._try_to_end(outage):
                    return
            except StoreUnavailable:
                pass
            except Exception:  # whatever goes wrong in one attempt, the next must come
                log.exception("What was written while Redis was away could not be handed over yet.")

    def _try_to_end(self, outage: Outage) -> bool:
        with outage.trying:
            if self._outage is not outage:
                return True
            if not outage.hand_over.attempt(self._end_outage):
                return False
        self._report_end(outage)
        self._turn()
        return True

    def _turn(self) -> None:
        """Have wake-ups come from where they belong now, and everybody look at everything."""
        with self._turning:
            outage, wakeups = self._outage, list(self._wakeups)
            for each in wakeups:
                each.attach(outage.memory if outage is not None else None)
        for each in wakeups:
            each.say_look()

    def wakeups(self, on_wakeup: OnWakeup) -> Wakeups:
        """As `Store.wakeups`."""
        wakeups = FallbackWakeups(on_wakeup, self._store.wakeups, self._wakeups.remove)
        with self._turning:
            self._wakeups.append(wakeups)
            outage = self._outage
            wakeups.attach(outage.memory if outage is not None else None)
        return wakeups

    def _end_outage(self) -> None:
        """From here on all goes to Redis again; no writer is inside."""
        with self._lock:
            outage, self._outage = self._outage, None
        if outage is not None and outage.memory.created:
            self._store.counting.add("sessions_created", outage.memory.created)

    def _report_begin(self, error: StoreAway) -> None:
        now = time.monotonic()
        if now - self._reported_at > QUIET:
            self._reported_at, self._reported = now, True
            log.warning(
                "Redis is away (%s): this process goes on from its own memory, apart from all other processes, and "
                "says so in SessionStatus-Degraded. What is written is handed over when Redis is back.",
                type(error.__cause__ or error).__name__,
            )

    def _report_end(self, outage: Outage) -> None:
        amount = outage.hand_over.amount
        if self._reported or amount.dropped:
            self._reported = False
            log.warning("Redis is back: %s.", amount)

    def hand_over(self, timeout: float) -> bool:
        """As `Store.hand_over`."""
        outage, until = self._outage, time.monotonic() + timeout
        while outage is not None and self._outage is outage:
            try:
                if self._try_to_end(outage):
                    return True
            except StoreUnavailable:
                pass
            left = until - time.monotonic()
            if left <= 0:
                sessions, turns, events = outage.memory.holds()
                log.error(
                    "Redis did not come back in time: what was written meanwhile in %s sessions is lost with this "
                    "process, %s turns and %s events among it.",
                    *(sessions, turns, events),
                )
                return False
            self._closed.wait(min(left, MIN_PAUSE))
        return True

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
