"""Whether several processes use one app: with a store in memory each of them is a world of its own."""

from __future__ import annotations

import mmap
import os
import signal
import struct
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

SLOTS = 512
SLOT = struct.Struct("q")


def sign_of_several(environ: Mapping[str, str] = os.environ) -> str | None:
    """What says that a server runs this app in several processes, in words; None: nothing does."""
    workers = _gunicorn_workers()
    if workers is not None:
        return f"gunicorn runs {workers} workers" if workers > 1 else None
    workers = _uwsgi_processes()
    if workers is not None:
        return f"uWSGI runs {workers} processes" if workers > 1 else None
    text = environ.get("WEB_CONCURRENCY", "").strip()
    return f"WEB_CONCURRENCY is {text}" if text.isdecimal() and int(text) > 1 else None


def _gunicorn_workers() -> int | None:
    """How many workers gunicorn was told to run, from wherever it was told; None: this is none of them."""
    worker = getattr(signal.getsignal(signal.SIGABRT), "__self__", None)
    if worker is None or not any(base.__module__.startswith("gunicorn.") for base in type(worker).__mro__):
        return None
    workers = getattr(getattr(worker, "cfg", None), "workers", None)
    return workers if isinstance(workers, int) else None


def _uwsgi_processes() -> int | None:
    """How many processes uWSGI runs; None: this is none of them."""
    try:
        processes = import_module("uwsgi").numproc  # there is such a module only within uWSGI
    except (ImportError, AttributeError):
        return None
    return processes if isinstance(processes, int) else None


class Users:
    """The processes that use something that was made before they were forked: they share a page of memory."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, SLOTS * SLOT.size)

    def enter(self) -> None:
        """This process uses it."""
        SLOT.pack_into(self._page, os.getpid() % SLOTS * SLOT.size, os.getpid())

    def other(self) -> int | None:
        """The id of another process that uses it and lives."""
        for (process,) in SLOT.iter_unpack(self._page[:]):
            if process not in (0, os.getpid()) and _lives(process):
                return int(process)
        return None


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    try:  # one that has ended and was not waited for
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return True
