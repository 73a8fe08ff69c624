"""The store for more than one process: Redis or Valkey. Each step is one script in the slot of its conversation."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any
from urllib.parse import unquote

from ...errors import (
    AlreadyStarted,
    Cancelled,
    ConversationFull,
    NamespaceFull,
    NotFound,
    RecordUnreadable,
    SessionConflict,
    SessionStatusError,
    StoreUnavailable,
    TaskRunning,
)
from ...estimate import KEPT_DURATIONS
from ...models import ORIGIN, Cursor, Event, Session, Task, Turn
from ..base import (
    TOO_MANY_COUNTERS,
    Answer,
    Append,
    Beat,
    Begun,
    Counters,
    Counting,
    Limits,
    OnWakeup,
    Page,
    SessionDraft,
    SessionPage,
    Store,
    StoreAway,
    Tally,
    TaskDraft,
    TaskRef,
    Verdict,
    Wakeups,
    Wanted,
    check_size,
    refused,
    too_many_names,
)
from ..bounds import RECENT_FIELDS, RECENT_SESSIONS, STEP, crowded
from ..codec import (
    SessionRecord,
    Snapshot,
    TaskRecord,
    bound,
    decode_fields,
    decode_turn,
    encode_turn,
    session_from,
    task_at,
)
from .address import Address
from .calls import CLOCK, Calls, Scripted, Step
from .directory import Directory, Kept, Place
from .keys import Keys, place, quoted
from .node import Argument
from .outages import Outages
from .records import change_json, decode, end_json, session_json, task_json
from .restoring import Restoring
from .topologies import servers_at
from .wakeups import RedisWakeups

log = logging.getLogger("flask_sessionstatus")

MARGIN = 64
"""How many more sessions than asked for are looked at: the listing lags behind running sessions by a heartbeat."""

MAX_CHUNK = 256
MAX_LOOKED_AT = 1024
MARKED = 3_600_000
"""For how long a batch of counts can be repeated without harm (ms)."""

HELD_UP = 20.0
"""Seconds; below the 30 for which a place stands without its session being asked for (see reserve.lua)."""

Fields = Mapping[str, str | None]


class RedisStore(Store):
    """Sessions in Redis, shared by every process that uses the same server and prefix.

    `index_everyone` keeps one more listing, of all sessions, for hosts without owners.
    `clock` is the Lua expression for the server's time as {seconds, microseconds}; tests move it. `insists`: a write
    that may have got through is tried once more, also at a server that did not answer.
    """

    name = "redis"

    def __init__(
        self,
        address: Address,
        limits: Limits,
        prefix: str = "sessionstatus:",
        *,
        index_everyone: bool = False,
        clock: str = CLOCK,
        monotonic: Callable[[], float] = time.monotonic,
        insists: bool = True,
    ) -> None:
        self.limits = limits
        self.counting = Counting()
        self._outages = Outages(limits, monotonic)
        self.calls = self._calls = Calls(servers_at(address, self._outages), self.counting, clock)
        self._keys = Keys(prefix)
        self._index_everyone = index_everyone
        self._directory = Directory(self._calls, self._keys, limits, self.counting, index_everyone)
        self._monotonic = monotonic
        self._insists = insists
        self.restoring = Restoring(self._calls, self._keys, self._directory, limits, self._outages)

    def ping(self) -> None:
        self._calls.command("EXISTS", self._keys.counters)

    def active_sessions(self) -> int | None:
        if not self._index_everyone:
            return None
        seconds, micros = self._calls.command("TIME")
        now = int(seconds) * 1000 + int(micros) // 1000
        return int(self._calls.command("ZCOUNT", self._keys.namespace(None), f"({now}", "+inf"))

    def totals(self) -> Counters:
        batch, counts = self.counting.batch()
        flat = [part for pair in counts.items() for part in pair]
        reply = self._calls.script("count", self._keys.counters, batch, MARKED, *flat)
        self.counting.acknowledge(batch)
        known = {field.name for field in fields(Counters)}
        pairs = zip(reply[0::2], reply[1::2])
        return Counters(**{name.decode(): int(count) for name, count in pairs if name.decode() in known})

    @property
    def recovering(self) -> bool:
        return self._outages.recovering

    @property
    def grace(self) -> int:
        """For how long before now a lease may have run out only because nobody could renew it (ms)."""
        return self._outages.grace

    @property
    def announcements(self) -> str:
        """The channel on which other programs may name keys that they have made."""
        return self._keys.existing

    def close(self) -> None:
        self._calls.servers.close()

    def session_channel(self, conversation_id: str, session_id: str) -> str:
        return self._keys.session_channel(conversation_id, session_id)

    def channel(self, ref: TaskRef) -> str:
        return self._keys.channel(ref)

    def cancel_channel(self, ref: TaskRef) -> str:
        return self._keys.cancel_channel(ref)

    # Sessions

    def snapshot(self, conversation_id: str) -> Snapshot:
        return self._refilled(conversation_id, *self._calls.script("status", self._keys.conversation(conversation_id)))

    def _refilled(self, conversation_id: str, time_parts: Sequence[bytes], fields: Sequence[bytes]) -> Snapshot:
        """What a conversation's fields say; where its recent sessions have expired, older ones may live longer."""
        snapshot = self._snapshot(conversation_id, time_parts, fields)
        if _has_room(snapshot) and b"stowed" in fields:
            key = self._keys.conversation(conversation_id)
            self._calls.script("refill", key)
            snapshot = self._snapshot(conversation_id, *self._calls.script("status", key))
        return snapshot

    def snapshot_with(self, conversation_id: str, steps: Sequence[Step]) -> tuple[Snapshot, list[Any]]:
        """As snapshot, with the replies of further steps in the same round trip."""
        own, *replies = self.calls.batch(Scripted("status", self._keys.conversation(conversation_id)), *steps)
        if isinstance(own, Exception):
            raise own
        return self._refilled(conversation_id, *own), replies

    def _snapshot(
        self, conversation_id: str, time_parts: Sequence[bytes], fields: Sequence[bytes], only: str | None = None
    ) -> Snapshot:
        """What a conversation's fields say; `only`, where one session is asked for, is not kept from it by others'."""
        now = int(time_parts[0]) * 1000 + int(time_parts[1]) // 1000
        sessions: dict[str, SessionRecord] = {}
        tasks: dict[str, TaskRecord] = {}
        for name, record in decode_fields(fields):
            if "%" in name:
                name = unquote(name)
            if isinstance(record, RecordUnreadable):
                self.counting.add("unreadable")
                log.error("%s", record)
                if only is None or name == f"session:{only}":
                    raise record
            elif name.startswith("task:"):
                if "%" in record["session"]:
                    record["session"] = unquote(record["session"])
                tasks[name[5:]] = record
            elif name.startswith("session:") and now < record["expires"]:
                sessions[name[8:]] = record
        tasks = {task_id: task for task_id, task in tasks.items() if task["session"] in sessions}
        self._bound(conversation_id, now, tasks)
        return Snapshot(conversation_id, now, sessions, tasks, self._outages.grace)

    def _bound(self, conversation_id: str, now: int, tasks: Mapping[str, TaskRecord]) -> None:
        """Have deadlines of before the clock jumped back written as they are read: else each look would move them
        on."""
        bounded = [quoted(task_id) for task_id, task in tasks.items() if bound(task, now)]
        if not bounded:
            return
        try:
            self._calls.script("bound", self._keys.conversation(conversation_id), *bounded)
        except (StoreUnavailable, RecordUnreadable) as error:
            # What was asked for is read; whoever looks next tries again.
            log.warning("Deadlines were not bounded: %s", error)

    def session(self, session_id: str) -> Session | None:
        conversation, reply = self._directory.in_session("session", session_id)
        return self._session(conversation, session_id, reply) if reply else None

    def _session(self, conversation_id: str, session_id: str, reply: Sequence[Any]) -> Session | None:
        time_parts, fields, own = reply
        snapshot = self._snapshot(conversation_id, time_parts, fields, session_id)
        if session_id not in snapshot.sessions:
            return None
        texts = {own[i].decode(): own[i + 1].decode() for i in range(0, len(own), 2)}
        return session_from(snapshot, session_id, texts)

    def sessions(
        self, namespace_id: str | None, limit: int, after: str | None, wanted: Wanted | None = None
    ) -> SessionPage:
        start = position = Place.parse(after) if after is not None else None
        chunk = min(limit + 1 + MARGIN, MAX_CHUNK)
        found: list[tuple[Place, Session]] = []
        looked_at = 0
        while True:
            places = self._directory.places(namespace_id, position, chunk)
            looked_at += len(places)
            for session, name in self._listed(namespace_id, places):
                # A session may be ahead of its place: then it was shown already, or will be first.
                at = Place(session.last_activity, name)
                if (start is None or at < start) and (wanted is None or wanted(session)):
                    found.append((at, session))
            position = places[-1] if places else position
            if len(places) < chunk or len(found) > limit or looked_at >= MAX_LOOKED_AT:
                break
        found.sort(key=lambda item: item[0], reverse=True)
        page, ended = found[:limit], len(places) < chunk
        following = page[-1][0] if len(found) > limit else None if ended else position
        return SessionPage([session for _, session in page], None if following is None else str(following))

    def _listed(self, namespace_id: str | None, places: Sequence[Place]) -> Iterator[tuple[Session, str]]:
        """The sessions that live, each with its member; places without one are forgotten."""
        steps = [
            Scripted("session", self._keys.conversation(each.conversation_id), (quoted(each.session_id),))
            for each in places
        ]
        dead: list[Place] = []
        for each, reply in zip(places, self._calls.batch(*steps)):
            try:
                if isinstance(reply, Exception):
                    raise reply
                session = self._session(each.conversation_id, each.session_id, reply) if reply else None
            except RecordUnreadable as error:
                log.error("Left out of a listing: %s", error)
                continue
            if session is None:
                dead.append(each)
            elif namespace_id in (None, session.namespace_id):
                yield session, each.member
        if dead:
            self._directory.forget_dead(namespace_id, dead)

    def create_session(self, draft: SessionDraft, own: bool = True) -> None:
        self._open(draft, None, "allow", own)

    def _confirm(self, draft: SessionDraft, taken_at: float) -> None:
        """Whoever was held up between the steps may have lost the place meanwhile, perhaps to somebody else."""
        if self._monotonic() - taken_at < HELD_UP or draft.namespace_id is None or self._directory.is_taken(draft):
            return
        try:
            self._directory.take(draft, self.limits.session_ttl, None)
        except NamespaceFull:
            self.delete_session(draft.session_id)
            raise

    def update_session(self, session_id: str, fields: Fields) -> bool:
        return self.add_turns(session_id, (), fields) is not None

    def add_turns(self, session_id: str, turns: Sequence[Turn], fields: Fields) -> Sequence[Turn] | None:
        check_size(turns, fields)
        sets = [(name, text) for name, text in fields.items() if text is not None]
        removals = [name for name, text in fields.items() if text is None]
        encoded = [(quoted(turn.turn_id or "-"), encode_turn(turn)) for turn in turns]
        limits = self.limits

        def update(repeated: int) -> tuple[str, Any]:
            bounds = (limits.session_ttl, limits.max_age or 0, limits.max_turns, repeated)
            changes: tuple[Argument, ...] = (
                len(sets),
                *(part for pair in sets for part in pair),
                len(removals),
                *removals,
            )
            return self._directory.in_session(
                "update", session_id, *bounds, *changes, len(encoded), *(part for pair in encoded for part in pair)
            )

        try:
            conversation, reply = update(0)
        except StoreUnavailable as error:
            if isinstance(error, StoreAway) and not self._insists:
                raise
            # It may have got through: the turns' ids tell.
            conversation, reply = update(1)
        if not reply:
            return None
        if len(reply) == 1:
            raise too_many_names(turns)
        first, stamp, left, namespace = int(reply[0]), int(reply[1]), int(reply[2]), reply[3].decode() or None
        self._directory.keep([Kept(session_id, conversation, namespace, left, stamp)])
        return [
            decode_turn(text.encode(), unquote(turn_id), first + i, stamp) for i, (turn_id, text) in enumerate(encoded)
        ]

    def turns(self, session_id: str, before: int | None, limit: int) -> Sequence[Turn] | None:
        pages: list[list[Turn]] = []
        made: bytes | None = None
        end, left = before, limit
        while True:
            _, reply = self._directory.in_session("turns", session_id, -1 if end is None else end, left)
            if not reply:
                return None
            if made is not None and made != reply[2]:  # the session was made anew meanwhile
                pages, made, end, left = [], None, before, limit
                continue
            end, made = int(reply[0]), reply[2]
            pages.append([_turn(text, position) for position, text in enumerate(reply[1], start=end)])
            left -= len(pages[-1])
            if left <= 0 or len(pages[-1]) < STEP:
                return [turn for page in reversed(pages) for turn in page]

    def touch(self, session_ids: Sequence[str]) -> Sequence[bool | Exception]:
        bounds = (self.limits.session_ttl, self.limits.max_age or 0)
        replies = self._directory.in_sessions("touch", [(session_id, bounds) for session_id in session_ids])
        answers: list[bool | Exception] = []
        kept: list[Kept] = []
        for session_id, (conversation, reply) in zip(session_ids, replies):
            answers.append(reply if isinstance(reply, Exception) else bool(reply))
            if reply and not isinstance(reply, Exception):
                left, namespace, activity = int(reply[0]), reply[1].decode() or None, int(reply[2])
                kept.append(Kept(session_id, conversation, namespace, left, activity))
        self._directory.keep(kept)
        return answers

    def tally(self, tallies: Sequence[Tally]) -> Sequence[bool | Exception]:
        calls = [
            (each.session_id, (quoted(each.writer), each.number, *(part for pair in some for part in pair)))
            for each in tallies
            for some in [list(each.amounts.items())[:STEP]]
        ]
        replies = [reply for _, reply in self._directory.in_sessions("tally", calls)]
        for each, reply in zip(tallies, replies):
            if reply == 2 or len(each.amounts) > STEP:
                log.warning(TOO_MANY_COUNTERS, each.session_id[:8])
        return [reply if isinstance(reply, Exception) else bool(reply) for reply in replies]

    def delete_session(self, session_id: str) -> bool:
        session = self.session(session_id)
        if session is None:
            return False
        key = self._keys.conversation(session.conversation_id)
        self._directory.doubt(session_id, session.conversation_id, session.namespace_id)
        deleted = self._calls.script("delete", key, quoted(session_id), self.limits.session_ttl)
        self._directory.leave(session_id, session.conversation_id, session.namespace_id)
        return bool(deleted)

    # Tasks

    def begin(self, session: SessionDraft, task: TaskDraft, if_running: str = "allow", own: bool = True) -> Begun:
        try:
            return self._open(session, task, if_running, own)
        except StoreUnavailable:
            raise
        except SessionStatusError:
            if not task.leased and task.epoch is None:
                self._directory.leave_task(task.task_id)
            raise

    def _open(self, session: SessionDraft, task: TaskDraft | None, if_running: str, own: bool) -> Begun:
        limits = self.limits
        queued = limits.max_pending_age + task.delay if task is not None and not task.leased else 0
        taken_at = self._monotonic()
        waits_for_socket = task is None and session.for_socket
        life = limits.connect_deadline if waits_for_socket else limits.session_ttl + queued
        try:
            past = self._directory.take(session, life, task)
        except NamespaceFull:
            if task is not None and task.idempotency_key is not None and task.epoch is None:
                self._check_key(session, task.idempotency_key, own)
            raise
        step = self._begin_step(session, task, past, if_running, own)
        reply = self._calls.script(step.script, step.key, *step.args)
        verdict, ids = reply[0].decode(), {"sessionId": session.session_id, "conversationId": session.conversation_id}
        if verdict == "begun":
            self._directory.remember(session.session_id, session.conversation_id)
            self._confirm(session, taken_at)
            left, activity, namespace = int(reply[9]), int(reply[10]), reply[11].decode() or None
            if namespace != session.namespace_id:
                self._directory.give_back(session, namespace, exists=True)
            self._directory.keep([Kept(session.session_id, session.conversation_id, namespace, left, activity)])
            if int(reply[6]):
                self.counting.add("sessions_created")
            epoch, tail, session_created, task_created = map(int, reply[1:5])
            stopping = [unquote(each.decode()) for each in reply[5]]
            key = reply[12].decode() or None
            now, attempt = int(reply[7]), int(reply[8])
            return Begun(epoch, tail, session_created, task_created, now, attempt, stopping, namespace, key)
        if verdict == "deleted":
            self._directory.leave(session.session_id, session.conversation_id, session.namespace_id)
            raise NotFound("The session was deleted.", **ids)
        holder = self.session(session.session_id)
        self._directory.give_back(session, holder.namespace_id if holder else None, holder is not None)
        if verdict == "conflict":
            raise SessionConflict("The session belongs to somebody else.", **ids)
        if verdict == "crowded" and task is not None and task.epoch is not None:
            raise StoreUnavailable("As many tasks live in the session as may. Try again in a moment.")
        if verdict == "crowded":
            raise ConversationFull(crowded(), **ids)
        if verdict == "unknown":
            raise StoreUnavailable("The store has started again: what runs is not known yet. Try again in a moment.")
        other, other_session = unquote(reply[1].decode()), unquote(reply[2].decode())
        if verdict == "running":
            raise TaskRunning(
                "A task of this conversation is running.", taskId=other, **{**ids, "sessionId": other_session}
            )
        if verdict == "fenced":
            raise TaskRunning("A newer attempt of this task has begun.", taskId=other, **ids)
        first = self.task(other_session, other)
        if first is None:
            raise _gone(other, **ids)
        raise AlreadyStarted("The idempotency key was used before.", first, taskId=other, **ids)

    def _begin_step(
        self, session: SessionDraft, task: TaskDraft | None, past: Sequence[int], if_running: str, own: bool
    ) -> Scripted:
        limits = self.limits
        args: Sequence[Argument] = (
            quoted(session.session_id),
            session_json(session),
            quoted(task.task_id) if task else "",
            task_json(task, past) if task else "",
            if_running,
            *(limits.session_ttl, limits.lease, limits.max_age or 0),
            limits.max_pending_age + (task.delay if task else 0),
            limits.connect_deadline,
            int(own),
            self._outages.grace,
            int(self._outages.forgetful),
        )
        return Scripted("begin", self._keys.conversation(session.conversation_id), args)

    def _check_key(self, session: SessionDraft, key: str, own: bool) -> None:
        """Who comes again with a used key gets the first task, also where there is no place for another session."""
        text = self._calls.command("GET", self._keys.used(session.conversation_id, key))
        snapshot = self.snapshot(session.conversation_id)
        first = min(snapshot.sessions.values(), key=lambda record: record["created"], default=None)
        if text is None or first is None or (own and first.get("ns") != session.namespace_id):
            return
        used = json.loads(text)
        found = self._tasks(unquote(used["session"]), 1, used["task"])
        if found is None:
            return
        if found and (found[0].state.live or snapshot.now < used["expires"]):
            raise AlreadyStarted("The idempotency key was used before.", found[0], taskId=found[0].task_id)
        if not found and snapshot.now < used["expires"]:
            raise _gone(unquote(used["task"]))

    def claim(self, ref: TaskRef, token: str) -> Begun | None:
        return self._claim(ref, token, only_look=False)

    def claimed(self, ref: TaskRef, token: str) -> Begun | None:
        return self._claim(ref, token, only_look=True)

    def _claim(self, ref: TaskRef, token: str, only_look: bool) -> Begun | None:
        limits = self.limits
        reply = self._calls.script(
            "claim",
            self._keys.conversation(ref.conversation_id),
            *(quoted(ref.session_id), quoted(ref.task_id), token),
            *(limits.lease, self._outages.grace, limits.session_ttl, limits.max_age or 0),
            int(only_look),
        )
        if not reply:
            return None
        if reply[0] == b"deleted":
            raise Cancelled("The session was deleted.", sessionId=ref.session_id, taskId=ref.task_id)
        if reply[0] == b"refused":
            record = decode(reply[1], ref.task_id)
            raise refused(self._task(record, ref.task_id, ref.conversation_id, reply[3], int(reply[2])))
        epoch, tail, session_created, task_created, now, attempt = map(int, reply[1:7])
        stopping = [unquote(each.decode()) for each in reply[7]]
        left, activity, namespace, key = int(reply[8]), int(reply[9]), reply[10].decode() or None, reply[11].decode()
        self._directory.keep(
            [Kept(ref.session_id, ref.conversation_id, namespace, left, activity)], [(ref.task_id, left)]
        )
        return Begun(epoch, tail, session_created, task_created, now, attempt, stopping, namespace, key or None)

    def find_task(self, task_id: str) -> Task | None:
        found_at = self._calls.command("GET", self._keys.task(task_id))
        if found_at is None:
            return None
        session_id, conversation_id = place(found_at.decode())
        page = self.events(TaskRef(conversation_id, session_id, task_id), ORIGIN, 0)
        return page.task if page is not None else None

    def append(self, appends: Sequence[Append]) -> Sequence[Answer | Exception]:
        limits = self.limits
        lives = (limits.session_ttl, limits.lease, limits.result_ttl or 0, limits.max_age or 0)
        bounds = (limits.max_events, *lives)
        calls: list[Scripted] = []
        for each in appends:
            at = (quoted(each.ref.task_id), each.attempt, each.epoch, each.base, each.floor)
            result = each.end.result if each.end and each.end.result is not None else ""
            says = (change_json(each.change) if each.change else "", end_json(each.end) if each.end else "", result)
            flat = [part for event in each.events for part in event]
            args: Sequence[Argument] = (*at, len(each.events), *says, *bounds, *flat)
            calls.append(Scripted("append", self._keys.conversation(each.ref.conversation_id), args))
        return self._answers([each.ref for each in appends], self._calls.batch(*calls))

    def beat(self, beats: Sequence[Beat]) -> Sequence[Answer | Exception]:
        limits = self.limits
        bounds = (limits.lease, limits.session_ttl, limits.max_age or 0)
        calls = [
            Scripted(
                "beat",
                self._keys.conversation(each.ref.conversation_id),
                (quoted(each.ref.task_id), each.attempt, each.epoch, *bounds),
            )
            for each in beats
        ]
        return self._answers([each.ref for each in beats], self._calls.batch(*calls))

    def _answers(self, refs: Sequence[TaskRef], replies: Sequence[Any]) -> Sequence[Answer | Exception]:
        answers: list[Answer | Exception] = []
        kept: dict[str, Kept] = {}
        tasks: list[tuple[str, int]] = []
        for ref, reply in zip(refs, replies):
            if isinstance(reply, Exception):
                answers.append(reply)
                continue
            answers.append(Answer(Verdict(reply[0].decode()), int(reply[1]), int(reply[2]) or None))
            if len(reply) > 3 and reply[3]:
                namespace, left, activity = reply[4].decode() or None, int(reply[3]), int(reply[5])
                kept[ref.session_id] = Kept(ref.session_id, ref.conversation_id, namespace, left, activity)
                tasks.append((ref.task_id, left))
        self._directory.keep(kept.values(), tasks)
        return answers

    def cancel(self, ref: TaskRef) -> Task | None:
        reply = self._calls.script(
            "cancel", self._keys.conversation(ref.conversation_id), quoted(ref.session_id), quoted(ref.task_id)
        )
        if not reply:
            return None
        record = decode(reply[0], ref.task_id)
        return self._task(record, ref.task_id, ref.conversation_id, reply[2], int(reply[1]))

    def _task(self, record: TaskRecord, task_id: str, conversation_id: str, namespace: bytes, now: int) -> Task:
        return task_at(record, task_id, conversation_id, namespace.decode() or None, now, self._outages.grace)

    def task(self, session_id: str, task_id: str) -> Task | None:
        found = self._tasks(session_id, 1, quoted(task_id))
        return found[0] if found else None

    def tasks(self, session_id: str, limit: int) -> Sequence[Task] | None:
        return self._tasks(session_id, limit)

    def _tasks(self, session_id: str, limit: int, *only: str) -> Sequence[Task] | None:
        conversation, reply = self._directory.in_session("tasks", session_id, limit, *only)
        if not reply:
            return None
        now = int(reply[0])
        records: dict[str, TaskRecord] = {}
        for i in range(2, len(reply), 2):
            task_id = unquote(reply[i].decode())
            try:
                record = decode(reply[i + 1], task_id)
            except RecordUnreadable:
                if only:
                    raise
                self.counting.add("unreadable")
                log.error("Left out of a listing: the stored record of task %s cannot be read.", task_id[:8])
                continue
            if record["session"] == session_id:
                records[task_id] = record
        self._bound(conversation, now, records)
        return [self._task(record, task_id, conversation, reply[1], now) for task_id, record in records.items()]

    def events(self, ref: TaskRef, after: Cursor, limit: int) -> Page | None:
        reply = self._calls.script(
            "events",
            self._keys.conversation(ref.conversation_id),
            quoted(ref.session_id),
            quoted(ref.task_id),
            str(after),
            limit,
        )
        if not reply:
            return None
        if len(reply) == 1:
            raise NotFound("The session was deleted.", sessionId=ref.session_id, taskId=ref.task_id)
        now, first = int(reply[0]), reply[2].decode()
        return Page(
            now,
            self._task(decode(reply[1], ref.task_id), ref.task_id, ref.conversation_id, reply[4], now),
            Cursor.parse(first) if first else None,
            [Event(Cursor.parse(key.decode()), data[1].decode(), data[3].decode()) for key, data in reply[3]],
        )

    def result(self, session_id: str, task_id: str) -> str | None:
        _, reply = self._directory.in_session("result", session_id, quoted(task_id))
        return None if reply is None else str(reply.decode())

    def traceback(self, session_id: str, task_id: str) -> str | None:
        _, reply = self._directory.in_session("traceback", session_id, quoted(task_id))
        return None if reply is None else str(reply.decode())

    def record_duration(self, type: str, duration: int) -> None:
        key = self._keys.durations(type)
        self._calls.together(("LPUSH", key, duration), ("LTRIM", key, 0, KEPT_DURATIONS - 1))

    def hinted(self, ref: TaskRef, hint: bytes) -> tuple[Page, Cursor] | None:
        now, *said = hint.split(b"\n")
        if len(said) < 2:
            return None
        record, before, *brought = said
        epoch, base = map(int, before.split(b"-"))
        events = [
            Event(Cursor(epoch, number), type.decode(), data.decode())
            for number, (type, data) in enumerate(zip(brought[0::2], brought[1::2]), start=base + 1)
        ]

        def task() -> Task:
            return self._task(decode(record, ref.task_id), ref.task_id, ref.conversation_id, b"", int(now))

        return Page(int(now), task, None, events), Cursor(epoch, base) if base else ORIGIN

    def wakeups(self, on_wakeup: OnWakeup) -> Wakeups:
        return RedisWakeups(self._calls.servers, self._keys.wakeups, on_wakeup)


def _gone(task_id: str, **ids: str) -> NotFound:
    return NotFound("The task that this idempotency key started is gone.", taskId=task_id, **ids)


def _has_room(snapshot: Snapshot) -> bool:
    """Whether stowed sessions could be seen beside these: see room_in in common.lua."""
    sessions, tasks = len(snapshot.sessions), len(snapshot.tasks)
    return sessions < RECENT_SESSIONS and sessions + tasks <= RECENT_FIELDS - 2


def _turn(text: bytes, position: int) -> Turn:
    stamp, turn_id, record = text.split(b" ", 2)
    return decode_turn(record, unquote(turn_id.decode()), position, int(stamp))
