"""What one process knows of other programs' keys, and who is told when they change."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence

import redis

from ...errors import StoreUnavailable
from ..redis.calls import Calls, Keyed
from ..redis.replies import code_of
from .entries import Entry, Troubles, first_words
from .index import Index
from .listener import BATCH, SILENCE, Listener
from .reading import Why
from .templates import ExistingKeys, Place

log = logging.getLogger("flask_sessionstatus")

PRIMARIES = 1.0
"""Seconds between two looks at which servers there are."""

FIRST_WAIT = 0.5
"""Seconds that a request waits for the first scan."""

OF_ANOTHER_TYPE = "A key with the name of a stream is of another type, and is left alone."
UNDECIDED = (
    "The key of a stream can be read as that of several sessions, and its entries do not say of which: nobody sees it. "
    "`whole` in SESSIONSTATUS_EXISTING_KEYS can say it."
)

OnChange = Callable[[str, "bytes | None"], None]


class Discovery:
    """Keeps the index true, with a listener at each primary.

    `announced` is the channel on which programs may name a key that they have made; `on_gone` is told of sessions that
    are forgotten.
    """

    def __init__(
        self,
        calls: Calls,
        keys: ExistingKeys,
        index: Index,
        troubles: Troubles,
        announced: str,
        on_gone: Callable[[Place], None],
    ) -> None:
        self.calls = calls
        self.keys = keys
        self.index = index
        self.announced = announced
        self.closed = threading.Event()
        self._troubles = troubles
        self._on_gone = on_gone
        self._lock = threading.Lock()
        self._scanned = threading.Event()
        self._begun_at = time.monotonic()
        self._listeners: dict[str, Listener] = {}
        self._thread: threading.Thread | None = None
        self._changed: dict[bytes, Place | None] = {}
        self._doubtful: dict[bytes, None] = {}
        self._unread: dict[bytes, None] = {}
        self._watched: dict[bytes, dict[str, OnChange]] = {}

    # For those who ask

    def start(self) -> None:
        """Begin, once; nobody waits for it."""
        if self._thread is None:
            with self._lock:
                if self._thread is None and not self.closed.is_set():
                    self._begun_at = time.monotonic()
                    self._thread = threading.Thread(target=self._run, name="sessionstatus-existing", daemon=True)
                    self._thread.start()

    def wait(self) -> None:
        """Give the first scan a moment."""
        if not self._scanned.is_set():
            self._scanned.wait(FIRST_WAIT)

    @property
    def is_complete(self) -> bool:
        """Whether what is not known is not there. A scan that does not come to its end does not count for ever."""
        listeners = list(self._listeners.values())
        if not listeners:
            return Listener.is_given_up(self._begun_at)
        return all(each.has_scanned or Listener.is_given_up(each.incomplete_since) for each in listeners)

    def watch(self, channel: str, on_change: OnChange) -> None:
        """Call `on_change(channel, None)` when a key of the channel, which names one a line, has changed."""
        with self._lock:
            for key in channel.split("\n"):
                self._watched.setdefault(key.encode(), {})[channel] = on_change

    def forget(self, channel: str) -> None:
        """End a watch."""
        with self._lock:
            for key in map(str.encode, channel.split("\n")):
                watching = self._watched.get(key, {})
                watching.pop(channel, None)
                if not watching:
                    self._watched.pop(key, None)

    def misplaced(self, place: Place, why: Why) -> None:
        """The key of a session was not what it should be when it was read."""
        key = self.keys.stream.key(place).encode()
        if why is Why.MISSING:
            with self._lock:
                self._doubtful[key] = None
            return
        self._forget(place)
        if why is Why.WRONG_TYPE:
            self._troubles.note(OF_ANOTHER_TYPE, key)
        else:
            self.learn([key])

    def close(self) -> None:
        """End all threads; they are waited for a moment."""
        self.closed.set()
        for listener in self._listeners.values():
            listener.close()
        threads = [self._thread, *(each.thread for each in self._listeners.values())]
        for thread in threads:
            if thread is not None and thread.is_alive() and thread is not threading.current_thread():
                thread.join(SILENCE)

    def _run(self) -> None:
        """Have a listener at each primary, as they come and go."""
        while not self.closed.is_set():
            try:
                self._attend()
            except (redis.RedisError, OSError):
                pass
            except Exception:  # whatever goes wrong once, the primaries must be looked at again
                log.exception("Other programs' keys are not looked for.")
            self.closed.wait(PRIMARIES if self._listeners else 0.1)

    def _attend(self) -> None:
        nodes = {node.name: node for node in self.calls.servers.primaries()}
        if not nodes:
            return
        known = {name: each for name, each in self._listeners.items() if nodes.get(name) is each.node}
        new = {name: Listener(self, node) for name, node in nodes.items() if name not in known}
        for name, listener in self._listeners.items():
            if name not in known:
                listener.close()
        self._listeners = {**known, **new}  # all of them at once: it is complete when all have scanned
        for listener in new.values():
            listener.thread.start()

    # For the listeners

    def scanned(self) -> None:
        """A listener has gone through its server's keys."""
        if self.is_complete:
            self._scanned.set()

    def rouse(self) -> None:
        """Wake-ups may have been lost: let everybody look."""
        with self._lock:
            watching = {channel: on_change for each in self._watched.values() for channel, on_change in each.items()}
        for channel, on_change in watching.items():
            on_change(channel, None)

    def doubt_all(self, but: Collection[Place | None]) -> None:
        """See, of all that are known but those, whether they are still there."""
        doubtful = [self.keys.stream.key(place).encode() for place in self.index.places() if place not in but]
        with self._lock:
            self._doubtful.update(dict.fromkeys(doubtful))

    def changed(self, keys: Iterable[bytes]) -> None:
        """Keys were written to, or are gone. Most are known, and written to often: that must cost next to nothing."""
        watched = self._watched
        with self._lock:
            new = [key for key in keys if not self._is_noted(key)]
            watching = [pair for key in keys if key in watched for pair in watched[key].items()] if watched else []
        for channel, on_change in watching:
            on_change(channel, None)
        if new:
            noted = self.learn(new)
            with self._lock:
                self._changed.update(noted)

    def _is_noted(self, key: bytes) -> bool:
        """Whether a change of the key says nothing new until the next check."""
        return key in self._changed and ((place := self._changed[key]) is None or place in self.index)

    def learn(self, keys: Sequence[bytes]) -> dict[bytes, Place | None]:
        """Take note of the sessions that keys belong to, and return them; None where that is not known (yet).

        Where a key may be of several sessions, its entries are asked.
        """
        found: dict[bytes, Place | None] = {}
        ambiguous: list[tuple[bytes, list[Place]]] = []
        for key in keys:
            places = self.keys.stream.places(key)
            found[key] = next((place for place in places if place in self.index), None)
            if found[key] is None and len(places) > 1:
                ambiguous.append((key, places))
            elif found[key] is None and places:
                found[key] = places[0]
        for start in range(0, len(ambiguous), BATCH):
            some = ambiguous[start : start + BATCH]
            try:
                found.update(self._decided(some))
            except StoreUnavailable:  # the next check tries again
                with self._lock:
                    self._unread.update((key, None) for key, _ in some)
        for place in found.values():
            if place is not None:
                self.index.add(place)
        return found

    def _decided(self, ambiguous: Sequence[tuple[bytes, list[Place]]]) -> dict[bytes, Place | None]:
        names = [key.decode() for key, _ in ambiguous]
        firsts = [Keyed(name, ("XRANGE", name, "-", "+", "COUNT", 1)) for name in names]
        lasts = [Keyed(name, ("XREVRANGE", name, "+", "-", "COUNT", 1)) for name in names]
        replies = self.calls.batch(*firsts, *lasts)
        found: dict[bytes, Place | None] = {}
        for (key, places), *ends in zip(ambiguous, replies, replies[len(names) :]):
            if any(isinstance(each, redis.ResponseError) and code_of(each) == "WRONGTYPE" for each in ends):
                self._troubles.note(OF_ANOTHER_TYPE, key)
                continue
            for each in ends:
                if isinstance(each, Exception):
                    raise self.calls.translated(each)
            found[key] = self.keys.place(places, first_words(Entry.read(each[0]) for each in ends if each))
            if found[key] is None and ends[0]:
                self._troubles.note(UNDECIDED, key)
        return found

    def check(self) -> None:
        """See which of the keys that changed or were missed are still there, and forget the others; and whose those are
        of which that was not to be told. What cannot be seen now is left to the next check."""
        with self._lock:
            changed, doubtful, unread = self._changed, self._doubtful, self._unread
            self._changed, self._doubtful, self._unread = {}, {}, {}
        undecided = [key for key, place in changed.items() if place is None and self.keys.stream.places(key)]
        self.learn([*unread, *undecided])
        known = [key for key in {**changed, **doubtful} if self._known(key) is not None]
        gone = [key for key, there in zip(known, self._are_there(known)) if not there]
        for key in gone:
            place = self._known(key)
            if place is not None:
                self._forget(place)
        # What was made again just before it was forgotten was known then, and nobody took note of it.
        self.learn([key for key, there in zip(gone, self._are_there(gone)) if there])

    def _are_there(self, keys: Sequence[bytes]) -> list[bool]:
        found: list[bool] = []
        for start in range(0, len(keys), BATCH):
            some = keys[start : start + BATCH]
            replies = self.calls.batch(*(Keyed(key.decode(), ("EXISTS", key)) for key in some))
            found += [isinstance(reply, Exception) or bool(reply) for reply in replies]
            failed = [key for key, reply in zip(some, replies) if isinstance(reply, Exception)]
            with self._lock:
                self._doubtful.update(dict.fromkeys(failed))
        return found

    def _forget(self, place: Place) -> None:
        self.index.discard(place)
        self._on_gone(place)

    def _known(self, key: bytes) -> Place | None:
        return next((place for place in self.keys.stream.places(key) if place in self.index), None)
