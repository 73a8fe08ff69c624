"""What a server's error replies mean. redis-py makes classes of some of them, of more in later versions, and leaves the
code out of their text; others, and those that a script passed on, are text."""

from __future__ import annotations

import re

import redis
from redis import exceptions

UNREADABLE = ("UNREADABLE", "WRONGTYPE")
"""A stored record is not what it should be."""

DEMOTED = ("READONLY", "MASTERDOWN")
"""A replica answers, where the primary should."""

UNWILLING = ("OOM", "MISCONF", "NOREPLICAS", "BUSY", "UNKILLABLE", "CLUSTERDOWN", "NOAUTH", "WRONGPASS", "NOPERM")
"""The server is there, and does not do what it is for, whatever it is asked."""

REFUSALS = ("OOM", "MISCONF", "NOREPLICAS", "NOAUTH", "WRONGPASS", "NOPERM")
"""Of these: the server can be reached, and says no to us or to writes. Somebody has to see to it."""

ELSEWHERE = ("MOVED", "ASK", "TRYAGAIN")
"""A node of a Cluster does not serve the slot, or not all of it."""

_CLASSES = {
    exceptions.ReadOnlyError: "READONLY",
    exceptions.MasterDownError: "MASTERDOWN",
    exceptions.ClusterDownError: "CLUSTERDOWN",
    exceptions.OutOfMemoryError: "OOM",
    exceptions.NoPermissionError: "NOPERM",
    exceptions.AuthenticationError: "NOAUTH",
    exceptions.MovedError: "MOVED",
    exceptions.AskError: "ASK",
    exceptions.TryAgainError: "TRYAGAIN",
}
_KNOWN = re.compile(rf"\b({'|'.join((*UNREADABLE, *DEMOTED, *UNWILLING, *ELSEWHERE))})\b")


def code_of(error: BaseException) -> str:
    """The code of an error reply, if it is one of the above; else an empty text."""
    for kind, code in _CLASSES.items():
        if isinstance(error, kind):
            return code
    found = _KNOWN.search(str(error)) if isinstance(error, redis.ResponseError) else None
    return found[1] if found else ""


def node_in(error: Exception) -> tuple[str, int]:
    """The host and the port that MOVED or ASK names; the host may be empty: it is the one that was asked."""
    host, _, port = str(error).split(" ")[-1].rpartition(":")
    return host, int(port)
