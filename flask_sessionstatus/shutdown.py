"""Ending with the process: what runs here is ended and stored, and streams are closed, before the process goes.

`atexit` alone is too late for a server that waits for open responses when it is told to end, and is not asked at all in
a process that SIGTERM ends by default.
"""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import threading
import weakref
from types import FrameType
from typing import Protocol


class Closable(Protocol):
    """Something that ends with the process."""

    def shutdown(self) -> bool: ...


_closables: weakref.WeakSet[Closable] = weakref.WeakSet()
_handled_by = 0


def shut_down_with_process(closable: Closable) -> None:
    """Call `shutdown` at exit and when the process is told to end (SIGTERM); then what would have happened anyway does.

    A signal handler can only be set in the main thread; elsewhere it is left at the exit.
    """
    _closables.add(closable)
    global _handled_by
    if _handled_by == os.getpid() or threading.current_thread() is not threading.main_thread():
        return
    former = signal.getsignal(signal.SIGTERM)
    if former is None or former is signal.SIG_IGN:
        return

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, former)
        # Apart, since the interrupted thread may hold the locks that this needs; and without a wait for the thread to
        # have begun, as Thread.start() does: under gevent a signal may come to a place that must not wait.
        _thread.start_new_thread(_shut_down, (not callable(former),))
        if callable(former):
            former(number, frame)

    signal.signal(signal.SIGTERM, handle)
    _handled_by = os.getpid()


def _shut_down(then_die: bool = False) -> None:
    try:
        for closable in list(_closables):
            closable.shutdown()
    finally:
        if then_die:
            os.kill(os.getpid(), signal.SIGTERM)


atexit.register(_shut_down)
