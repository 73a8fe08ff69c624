"""What lies outside the conversations' slots: where a session is found, and whose sessions there are.

A name and a place are taken before the session is made and live as long as it does; time releases what a process that
died between its steps has left behind. Nothing is removed for its score alone: the session itself is asked.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

from cachetools import LRUCache

from ...errors import InvalidValue, NamespaceFull, NotFound, RecordUnreadable, SessionConflict, StoreUnavailable
from ...estimate import KEPT_DURATIONS
from ..base import Counting, Limits, SessionDraft, TaskDraft
from .calls import Calls, Scripted, Step
from .keys import Keys, member, place, quoted
from .node import Argument

log = logging.getLogger("flask_sessionstatus")

REMEMBERED_SESSIONS = 10_000
MAX_SUSPECT = 160
"""As many suspect members a full namespace names at a time: see reserve.lua."""

ROUNDS = 4
MANY_TURNS = 2**20


class Kept(NamedTuple):
    """A session whose name and places are to live on: for `left` ms; `activity` is Unix ms."""

    session_id: str
    conversation_id: str
    namespace_id: str | None
    left: int
    activity: int


class Place(NamedTuple):
    """A session of a namespace, and its activity as the listing has it (Unix ms; the session itself may be ahead)."""

    activity: int
    member: str

    @property
    def session_id(self) -> str:
        return place(self.member)[0]

    @property
    def conversation_id(self) -> str:
        return place(self.member)[1]

    def __str__(self) -> str:
        return f"{self.activity} {self.member}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read a listing's cursor. Raises InvalidValue."""
        activity, _, name = text.partition(" ")
        if not (activity.isascii() and activity.isdecimal()) or len(activity) > 16:
            raise InvalidValue("The cursor is not one of this listing.", {"cursor": ["Not a cursor of this listing."]})
        return cls(int(activity), name)


class Directory:
    """Names and places. `index_everyone` keeps one more listing, of all sessions, for hosts without owners."""

    def __init__(self, calls: Calls, keys: Keys, limits: Limits, counting: Counting, index_everyone: bool) -> None:
        self._calls = calls
        self._keys = keys
        self._limits = limits
        self._counting = counting
        self._index_everyone = index_everyone
        self._conversations: LRUCache[str, str] = LRUCache(REMEMBERED_SESSIONS)
        self._lock = threading.Lock()
        # Each process begins somewhere else among the members of a full namespace, and goes through all of them.
        self._turn = random.randrange(MANY_TURNS)

    # Where a session is found

    def remember(self, session_id: str, conversation_id: str) -> None:
        """Take note of where a session is, so that it is found at once in this process."""
        with self._lock:
            self._conversations[session_id] = conversation_id

    def _find(self, session_id: str) -> str | None:
        text = self._calls.command("GET", self._keys.session(session_id))
        if text is None:
            return None
        conversation = unquote(text.decode())
        self.remember(session_id, conversation)
        return conversation

    def in_session(self, script: str, session_id: str, *args: Argument) -> tuple[str, Any]:
        """The conversation and a script's reply there; an empty reply is believed once the remembered place was read
        again."""
        with self._lock:
            known = self._conversations.get(session_id)
        if known is not None:
            reply = self._calls.script(script, self._keys.conversation(known), quoted(session_id), *args)
            if reply:
                self._counting.add("cache_hits")
                return known, reply
        self._counting.add("cache_misses")
        found = self._find(session_id)
        if found is None or found == known:
            return known or "", None
        return found, self._calls.script(script, self._keys.conversation(found), quoted(session_id), *args)

    def in_sessions(self, script: str, calls: Sequence[tuple[str, Sequence[Argument]]]) -> list[tuple[str, Any]]:
        """As `in_session`, for several sessions in one round trip; errors stand in their places."""
        with self._lock:
            known = {session_id: self._conversations.get(session_id) for session_id, _ in calls}
        remembered = [
            Scripted(script, self._keys.conversation(conversation), (quoted(session_id), *args))
            for session_id, args in calls
            if (conversation := known[session_id]) is not None
        ]
        replies = iter(self._calls.batch(*remembered))
        found: list[tuple[str, Any]] = []
        for session_id, args in calls:
            conversation = known[session_id]
            reply = next(replies) if conversation is not None else None
            try:
                found.append((conversation or "", reply) if reply else self.in_session(script, session_id, *args))
            except RecordUnreadable as error:
                found.append(("", error))
        return found

    # Names and places

    def _places(self, namespace_id: str | None) -> list[str]:
        keys = {self._keys.namespace(namespace_id)}
        if self._index_everyone:
            keys.add(self._keys.namespace(None))
        return sorted(keys)

    def take(self, draft: SessionDraft, life: int, task: TaskDraft | None) -> list[int]:
        """Take the session's name and its places, for `life` ms. Raises NotFound when it was deleted, SessionConflict,
        NamespaceFull.

        A task that goes to a queue gets a place of its own. Returns the past durations of the task's type (ms).
        """
        conversation = quoted(draft.conversation_id)
        name = self._keys.session(draft.session_id)
        steps: list[Step] = [
            ("SET", name, conversation, "NX", "PX", life),
            ("GET", name),
            ("LRANGE", self._keys.durations(task.type if task else ""), 0, KEPT_DURATIONS - 1),
        ]
        if task is not None and not task.leased:
            found_at = member(draft.session_id, draft.conversation_id)
            steps.append(("SET", self._keys.task(task.task_id), found_at, "PX", life))
        fresh, holder, past = self._calls.together(*steps)[:3]
        if holder is not None and holder.decode() != conversation:
            # A name outlives its session, if that was deleted.
            if self._calls.command(
                "HEXISTS", self._keys.session_record(unquote(holder.decode()), draft.session_id), "deleted"
            ):
                raise NotFound("The session was deleted.", sessionId=draft.session_id)
            raise SessionConflict("The session belongs to another conversation.", sessionId=draft.session_id)
        try:
            for key in self._places(draft.namespace_id):
                self._take_place(key, draft, life)
        except NamespaceFull:
            if fresh:
                self._calls.command("DEL", name)
                self._keep_if_it_lives(draft)
            raise
        return [int(duration) for duration in past]

    def _take_place(self, key: str, draft: SessionDraft, life: int) -> None:
        bounded = draft.namespace_id is not None and key == self._keys.namespace(draft.namespace_id)
        maximum = self._limits.max_sessions_per_namespace or 0 if bounded and draft.created_at is None else 0
        name = member(draft.session_id, draft.conversation_id)
        for _ in range(ROUNDS):
            taken, members, *full = self._calls.script("reserve", key, name, life, "", maximum, self._turn)
            forgotten = self._forget_dead(key, members)
            if taken:
                return
            self._turn += 1
            left, suspect = full
            if not forgotten and suspect < MAX_SUSPECT:
                break
        raise NamespaceFull(
            f"The namespace holds its maximum of {maximum} live sessions.", retry_after=max(1, -(-left // 1000))
        )

    def _forget_dead(self, key: str, members: Sequence[bytes]) -> int:
        """Remove those members behind which there is no session; a living one whose place was not renewed keeps it."""
        if not members:
            return 0
        dead: list[bytes] = []
        kept: list[Kept] = []
        for each, reply in zip(members, self._calls.batch(*(self._lives(each) for each in members))):
            if isinstance(reply, Exception):  # unreadable, or away: not known to be dead
                continue
            if reply:
                left, activity, namespace = int(reply[0]), int(reply[1]), reply[2].decode() or None
                kept.append(Kept(*place(each.decode()), namespace, left, activity))
            else:
                dead.append(each)
        self.keep(kept, prune=False)
        if not dead:
            return 0
        removed, expired = self._calls.script("forget", key, *dead)
        if int(expired) and (key == self._keys.namespace(None) or not self._index_everyone):
            self._counting.add("sessions_expired", int(expired))
        return int(removed)

    def _lives(self, member: bytes) -> Scripted:
        session_id, conversation_id = place(member.decode())
        return Scripted("lives", self._keys.conversation(conversation_id), (quoted(session_id),))

    def is_taken(self, draft: SessionDraft) -> bool:
        """Whether the session still has its place in its namespace."""
        name = member(draft.session_id, draft.conversation_id)
        return self._calls.command("ZSCORE", self._keys.namespace(draft.namespace_id), name) is not None

    def give_back(self, draft: SessionDraft, namespace_id: str | None, exists: bool) -> None:
        """Give back what was taken for a session that was not made after all, or that is somebody else's:
        `namespace_id` is then its owner."""
        if not exists:
            self.leave(draft.session_id, draft.conversation_id, draft.namespace_id)
            self._calls.command("DEL", self._keys.session(draft.session_id))
            self._keep_if_it_lives(draft)
        elif namespace_id != draft.namespace_id and draft.namespace_id is not None:
            name = member(draft.session_id, draft.conversation_id)
            self._calls.together(*self._removals(self._keys.namespace(draft.namespace_id), name))

    def _keep_if_it_lives(self, draft: SessionDraft) -> None:
        """Somebody else may have made the session while its name and places were given back here."""
        reply = self._calls.script("lives", self._keys.conversation(draft.conversation_id), quoted(draft.session_id))
        if reply:
            left, activity, namespace = int(reply[0]), int(reply[1]), reply[2].decode() or None
            self.keep([Kept(draft.session_id, draft.conversation_id, namespace, left, activity)])

    def leave(self, session_id: str, conversation_id: str, namespace_id: str | None) -> None:
        """Give back the places of a session that is no more."""
        name = member(session_id, conversation_id)
        self._calls.together(*(step for key in self._places(namespace_id) for step in self._removals(key, name)))

    def doubt(self, session_id: str, conversation_id: str, namespace_id: str | None) -> None:
        """Note that a session is about to go: who finds the namespace full looks whether it is there."""
        if namespace_id is not None and self._limits.max_sessions_per_namespace:
            key = f"{self._keys.namespace(namespace_id)}:unsure"
            self._calls.together(
                ("ZADD", key, 0, member(session_id, conversation_id)), ("PEXPIRE", key, self._limits.session_ttl)
            )

    def leave_task(self, task_id: str) -> None:
        """Give back the place of a task that was not begun after all."""
        self._calls.command("DEL", self._keys.task(task_id))

    @staticmethod
    def _removals(key: str, name: str) -> list[Step]:
        return [("ZREM", each, name) for each in (key, f"{key}:activity", f"{key}:unsure")]

    def keep(self, sessions: Iterable[Kept], tasks: Iterable[tuple[str, int]] = (), *, prune: bool = True) -> None:
        """Let names and places live as long as their sessions, and those of tasks that have one: (task, ms left).

        What was asked for is done already: a failure here is mended by the next beat or write.
        """
        steps: list[Step] = [("PEXPIRE", self._keys.task(task_id), left) for task_id, left in tasks]
        keys = [""] * len(steps)
        for each in sessions:
            name = member(each.session_id, each.conversation_id)
            steps.append(("SET", self._keys.session(each.session_id), quoted(each.conversation_id), "PX", each.left))
            keys.append("")
            for key in self._places(each.namespace_id):
                steps.append(Scripted("reserve", key, (name, each.left, each.activity, 0, 0)))
                keys.append(key)
        try:
            for key, reply in zip(keys, self._calls.batch(*steps)):
                if isinstance(reply, Exception):
                    raise reply
                if key and prune:
                    self._forget_dead(key, reply[1])
        except StoreUnavailable as error:
            log.warning("A session's places were not renewed: %s", error)

    # Whose sessions there are

    def places(self, namespace_id: str | None, after: Place | None, count: int) -> list[Place]:
        """At most `count` places of a namespace after one of them, the latest activity first."""
        where = ("", "") if after is None else (after.activity, after.member)
        flat = self._calls.script("places", self._keys.namespace(namespace_id), *where, count)
        return [Place(int(activity), name.decode()) for name, activity in zip(flat[0::2], flat[1::2])]

    def forget_dead(self, namespace_id: str | None, places: Sequence[Place]) -> None:
        """Remove those places behind which there is no session any more."""
        self._forget_dead(self._keys.namespace(namespace_id), [each.member.encode() for each in places])
