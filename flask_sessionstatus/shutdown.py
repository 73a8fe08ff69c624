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
from collections.abc import Callable
from types import FrameType
from typing import Protocol


class Closable(Protocol):
    """Something that ends with the process."""

    def shutdown(self) -> bool: ...


_closables: weakref.WeakSet[Closable] = weakref.WeakSet()
_handled_by = 0
_former: Callable[[int, FrameType | None], object] | int = signal.SIG_DFL


def shut_down_with_process(closable: Closable) -> None:
    """Call `shutdown` at exit and when the process is told to end (SIGTERM); then what would have happened anyway does.

    A signal handler can only be set in the main thread; elsewhere it is left at the exit.
    """
    _closables.add(closable)
    global _handled_by, _former
    if _handled_by == os.getpid() or threading.current_thread() is not threading.main_thread():
        return
    former = signal.getsignal(signal.SIGTERM)
    if former is None or former is signal.SIG_IGN or former is _handle:  # a forked child has it from its parent
        return
    _former = former
    signal.signal(signal.SIGTERM, _handle)
    _handled_by = os.getpid()


def leave_sigterm() -> None:
    """Leave SIGTERM to whoever handled it before: for a worker that ends its work first, and calls `shutdown` then.

    To be called in the main thread; elsewhere it does nothing.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is _handle:
        signal.signal(signal.SIGTERM, _former)


def _handle(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, _former)
    # Apart, since the interrupted thread may hold the locks that this needs; and without a wait for the thread to
    # have begun, as Thread.start() does: under gevent a signal may come to a place that must not wait.
    _thread.start_new_thread(_shut_down, (not callable(_former),))
    if callable(_former):
        _former(number, frame)


def _shut_down(then_die: bool = False) -> None:
    try:
        for closable in list(_closables):
            closable.shutdown()
    finally:
        if then_die:
            os.kill(os.getpid(), signal.SIGTERM)


atexit.register(_shut_down)
