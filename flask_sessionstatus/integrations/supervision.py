"""A parent that looks after the tasks that its children work on.

A child that holds its interpreter for longer than a lease renews nothing, and one that is killed says nothing. Its
parent knows that it lives, or how it died: it renews the lease meanwhile, hears of a stop, and ends what the child
cannot end any more.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ..errors import SessionStatusError, StoreUnavailable
from ..models import TaskState
from ..queues import Work
from ..watches import Watch

log = logging.getLogger("flask_sessionstatus")

Errand = Callable[[], "float | None"]
"""Something to see to: says in how many seconds again, or None when it is done."""

SOON = 0.1
RETRY = 0.5


class Supervision:
    """The thread in which a parent sees to its errands; while the store is away it tries again and again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._due: dict[Errand, float] = {}
        self._woken = threading.Event()
        self._thread: threading.Thread | None = None
        self._closing = False

    def see_to(self, errand: Errand) -> None:
        """See to it now, also when it was to be later."""
        with self._lock:
            self._due[errand] = 0.0
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sessionstatus-supervision", daemon=True)
                self._thread.start()
        self._woken.set()

    def close(self, timeout: float) -> None:
        """See to each errand once more, within `timeout` s, and end."""
        self._closing = True
        self._woken.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            self._woken.clear()
            closing = self._closing
            with self._lock:
                now = time.monotonic()
                due = [errand for errand, at in self._due.items() if at <= now or closing]
                for errand in due:
                    del self._due[errand]
            for errand in due:
                wait = self._see_to(errand, closing)
                if wait is not None:
                    with self._lock:
                        self._due.setdefault(errand, time.monotonic() + wait)
            with self._lock:
                if closing and not self._due:
                    return
                at = min(self._due.values(), default=None)
            self._woken.wait(None if at is None else max(0.0, at - time.monotonic()))

    @staticmethod
    def _see_to(errand: Errand, closing: bool) -> float | None:
        try:
            wait = errand()
        except StoreUnavailable:
            return RETRY
        except SessionStatusError as error:
            log.info("A parent has nothing more to do for its child: %s", error)
            return None
        except Exception:  # whatever goes wrong with one child, the others are looked after
            log.exception("A parent could not look after its child.")
            return None
        return None if closing else wait


class Child:
    """A job that a child works on under the name of `work`'s worker; from when it is handed over until it is done.

    `works` says whether it still is at it; `on_stop` is called back, from another thread, when its task is asked to
    stop. What is said first of its end counts.
    """

    def __init__(
        self,
        supervision: Supervision,
        work: Work,
        heartbeat: float,
        works: Callable[[], bool],
        on_stop: Callable[[], object] | None = None,
    ) -> None:
        self._supervision = supervision
        self._work = work
        self._heartbeat = heartbeat
        self._works = works
        self._on_stop = on_stop
        self._wait = SOON
        self._watch: Watch | None = None
        self._last: Callable[[Watch], None] | None = None
        self._died = False
        supervision.see_to(self._look)

    def died(self, state: TaskState, error_type: str | None = None, error_message: str | None = None) -> None:
        """It died, and so its task ends in this state; as cancelled when it was asked to stop. One that it did not take
        up ends as well."""
        self._say(_end(state, error_type, error_message), died=True)

    def failed(self, state: TaskState, error_type: str | None = None, error_message: str | None = None) -> None:
        """It has failed; its task ends in this state unless it has done so itself."""
        self._say(_end(state, error_type, error_message))

    def retry(self, delay: float = 0.0) -> None:
        """It died, and its queue delivers the message again, `delay` s later."""
        self._say(lambda watch: watch.retry(delay))

    def _say(self, last: Callable[[Watch], None], died: bool = False) -> None:
        if self._last is None:
            self._last, self._died = last, died
            self._supervision.see_to(self._look)

    def _look(self) -> float | None:
        last, works = self._last, self._works()
        if self._watch is None and (works or last is not None):
            self._join()
        if last is not None and self._watch is not None:
            last(self._watch)
        elif last is None and works:
            self._wait = self._heartbeat if self._watch is not None else min(2 * self._wait, self._heartbeat)
            return self._wait
        elif self._watch is not None:
            self._watch.leave()
            self._watch = None  # it may yet be said how the job died
        return None

    def _join(self) -> None:
        self._watch = self._work.join()
        if self._watch is None and self._died and self._work.waits():
            self._watch = self._work.watch()
        if self._watch is not None and self._on_stop is not None:
            self._watch.on_cancel(self._on_stop)


def _end(state: TaskState, error_type: str | None, error_message: str | None) -> Callable[[Watch], None]:
    def end(watch: Watch) -> None:
        if watch.cancelled:
            watch.end(TaskState.CANCELLED)
        else:
            watch.end(state, error_type, error_message)

    return end
