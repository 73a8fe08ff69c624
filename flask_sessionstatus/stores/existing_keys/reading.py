"""Reads sessions of other programs: what is asked of the server, and what its replies say."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any

import redis
from cachetools import LRUCache

from ...models import ORIGIN, Cursor
from ..redis.calls import Calls, Keyed
from ..redis.replies import code_of
from .entries import NONE, Entry, Troubles, as_mapping, cursor_of, first_words, state_of, word_of
from .shown import Shown
from .templates import ExistingKeys, Place

CANCELLED_FOR = 300_000
"""Ms that a cancel request stands."""

SAME = 1000
"""Ms: request times that differ by less are of one request; they are told from what is left of its time."""

REMEMBERED = 4096
TRUE = ("true", "1")


class Why(Enum):
    """Why a key that was read is not the stream of the session that it was read for."""

    MISSING = "missing"
    WRONG_TYPE = "wrong type"
    ANOTHERS = "another's"


Misplaced = Callable[[Place, Why], None]


class Reading:
    """Reads sessions of other programs: which commands that takes, and what their replies say."""

    def __init__(self, calls: Calls, keys: ExistingKeys, troubles: Troubles) -> None:
        self._calls = calls
        self._keys = keys
        self._troubles = troubles
        self._lock = threading.Lock()
        self._started: LRUCache[Place, int] = LRUCache(REMEMBERED)
        self._cancelled: LRUCache[Place, int] = LRUCache(REMEMBERED)
        self._hashes = False

    def steps(self, place: Place, after: Cursor | None = None, limit: int = 0) -> list[Keyed]:
        """What to ask for; `after` adds the time and `limit` entries. The status comes before the stream: an end that
        it tells of is then seen in the stream, too, where the program writes it first."""
        stream = self._keys.stream.key(place)
        steps: list[Keyed] = []
        if after is not None:
            steps.append(Keyed(stream, ("TIME",)))
        if self._keys.status is not None:
            steps.append(self._status_step(place, self._hashes))
        if self._keys.cancel is not None:
            cancel = self._keys.cancel.key(place)
            steps += [Keyed(cancel, ("GET", cancel)), Keyed(cancel, ("PTTL", cancel))]
        steps += [Keyed(stream, ("PTTL", stream)), Keyed(stream, ("XINFO", "STREAM", stream))]
        if after is not None and limit:
            steps.append(Keyed(stream, ("XRANGE", stream, f"({after}", "+", "COUNT", limit)))
        return steps

    def latest(self, places: Sequence[Place], count: int) -> list[Place]:
        """Those of the places that were written to last."""
        keys = [self._keys.stream.key(place) for place in places]
        replies = self._calls.batch(*(Keyed(key, ("XREVRANGE", key, "+", "-", "COUNT", 1)) for key in keys))
        for reply in replies:
            if isinstance(reply, Exception) and not isinstance(reply, redis.ResponseError):
                raise self._calls.translated(reply)
        tails = [cursor_of(reply[0][0]) if isinstance(reply, list) and reply else ORIGIN for reply in replies]
        return [place for _, place in sorted(zip(tails, places), reverse=True)[:count]]

    def _status_step(self, place: Place, as_hash: bool) -> Keyed:
        assert self._keys.status is not None
        key = self._keys.status.key(place)
        return Keyed(key, ("HGET", key, "status") if as_hash else ("GET", key))

    def shown(
        self,
        places: Sequence[Place],
        replies: Sequence[Any],
        now: int | None = None,
        after: Cursor | None = None,
        limit: int = 0,
        *,
        misplaced: Misplaced,
    ) -> list[Shown]:
        """What the replies to `steps` of these places say, without those that are not (or not theirs) any more.

        `misplaced` is told of these. Raises StoreUnavailable.
        """
        as_hash, found, again = self._hashes, [], []
        each = len(replies) // max(1, len(places))
        for i, place in enumerate(places):
            own = iter(replies[i * each : (i + 1) * each])
            time_parts = _sound(next(own), self._calls) if after is not None else None
            status = next(own) if self._keys.status is not None else None
            if _is_wrong_type(status):
                again.append(place)
            found.append((place, time_parts, status, list(own)))
        statuses = self._otherwise(again, as_hash)
        shown = []
        for place, time_parts, status, own_replies in found:
            at = now if time_parts is None else int(time_parts[0]) * 1000 + int(time_parts[1]) // 1000
            assert at is not None
            status = statuses[place] if place in statuses else _sound(status, self._calls)
            one = self._one(place, at, status, iter(own_replies), bool(after is not None and limit), misplaced)
            if one is not None:
                shown.append(one)
        return shown

    def _otherwise(self, places: Sequence[Place], as_hash: bool) -> dict[Place, Any]:
        """Statuses that are kept the other way (as hashes, or as texts) than was taken for granted: from now on that
        is."""
        if not places:
            return {}
        replies = self._calls.batch(*(self._status_step(place, not as_hash) for place in places))
        statuses: dict[Place, Any] = {}
        for place, reply in zip(places, replies):
            if _is_wrong_type(reply):
                self._troubles.note("The status of a session is neither a text nor a hash.", place)
                statuses[place] = None
            else:
                statuses[place] = _sound(reply, self._calls)
                self._hashes = not as_hash
        return statuses

    def _one(
        self,
        place: Place,
        now: int,
        status: Any,
        replies: Iterator[Any],
        with_entries: bool,
        misplaced: Misplaced,
    ) -> Shown | None:
        cancelled_at: int | None = None
        if self._keys.cancel is not None:
            asked, left = next(replies), next(replies)
            if not _is_wrong_type(asked):
                cancelled_at = self._asked_at(place, now, _sound(asked, self._calls), _sound(left, self._calls))
        left, info = _sound(next(replies), self._calls), next(replies)
        if isinstance(info, redis.ResponseError) and (_is_wrong_type(info) or "no such key" in str(info)):
            misplaced(place, Why.WRONG_TYPE if _is_wrong_type(info) else Why.MISSING)
            return None
        told = as_mapping(_sound(info, self._calls))
        first, last = (Entry.read(told[name]) if told[name] else None for name in (b"first-entry", b"last-entry"))
        tail = cursor_of(told[b"last-generated-id"])
        if tail == ORIGIN:  # made for a consumer group: nothing has happened there yet
            return None
        possible = self._keys.stream.places(self._keys.stream.key(place).encode())
        if self._keys.place(possible, first_words([first, last])) != place:
            misplaced(place, Why.ANOTHERS)
            return None
        entries = [Entry.read(each) for each in _sound(next(replies), self._calls)] if with_entries else []
        word = word_of(status)
        if word is not None and state_of(word) is None and word not in ("", NONE):
            self._troubles.note("A status is none of the known words: the stream tells how it stands.", (place, word))
        return Shown(
            place,
            now,
            first,
            last,
            tail,
            left if left >= 0 else None,
            _lost_head(told, first),
            word,
            cancelled_at,
            entries,
        )

    def _asked_at(self, place: Place, now: int, value: bytes | None, left: int) -> int | None:
        """When it was asked to stop: told from what is left of the request's time."""
        if value is None or value.decode(errors="replace").strip().lower() not in TRUE:
            return None
        at = now - max(0, CANCELLED_FOR - left) if left >= 0 else now
        with self._lock:
            known = self._cancelled.get(place)
            if known is not None and (left < 0 or abs(known - at) < SAME):
                return known
            self._cancelled[place] = at
        return at

    def asked(self, place: Place, at: int) -> None:
        """It was asked to stop here, just now."""
        with self._lock:
            self._cancelled[place] = at

    def started(self, shown: Shown) -> int:
        """When a session began: with its first entry; where that is gone, by what is left of it or known of it."""
        first = shown.first.cursor.epoch if shown.first is not None else shown.tail.epoch
        if shown.has_lost_head or shown.first is None:
            said = shown.first.created_at if shown.first is not None else None
            first = min(first, said if said is not None else first)
            with self._lock:
                first = min(first, self._started.get(shown.place, first))
        with self._lock:
            self._started[shown.place] = first
        return first

    def forget(self, place: Place) -> None:
        """What was remembered of a session that is gone."""
        with self._lock:
            self._started.pop(place, None)
            self._cancelled.pop(place, None)


def _lost_head(info: dict[bytes, Any], first: Entry | None) -> bool | None:
    """Whether entries were removed before the first that is left. Redis 7 counts all that were ever added; deletions
    in the middle hide which it was."""
    added = info.get(b"entries-added")
    if added is None or first is None:
        return None
    if int(added) <= int(info[b"length"]):
        return False
    deleted = cursor_of(info.get(b"max-deleted-entry-id", b"0-0"))
    return True if deleted < first.cursor else None


def _is_wrong_type(reply: Any) -> bool:
    return isinstance(reply, redis.ResponseError) and code_of(reply) == "WRONGTYPE"


def _sound(reply: Any, calls: Calls) -> Any:
    """A reply that is no error. Raises StoreUnavailable."""
    if isinstance(reply, Exception):
        raise calls.translated(reply)
    return reply
