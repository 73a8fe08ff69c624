"""What kind of threads this process has."""

from __future__ import annotations

import sys
import threading


def is_cooperative() -> bool:
    """Whether threads are greenlets here: gevent has patched `threading`."""
    return "gevent" in type(threading.Lock()).__module__


def is_kill(error: BaseException | None) -> bool:
    """Whether this is what a greenlet ends with that is killed."""
    greenlet = sys.modules.get("greenlet")
    return greenlet is not None and isinstance(error, greenlet.GreenletExit)
