"""What kind of threads this process has."""

from __future__ import annotations

import threading


def is_cooperative() -> bool:
    """Whether threads are greenlets here: gevent has patched `threading`."""
    return "gevent" in type(threading.Lock()).__module__
