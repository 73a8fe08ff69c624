"""The store for more than one process: Redis or Valkey. Each step is one script in the slot of its conversation."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

import redis
from cachetools import LRUCache

from ..errors import (
    AlreadyStarted,
    NamespaceFull,
    NotFound,
    RecordUnreadable,
    SessionConflict,
    StoreUnavailable,
    TaskRunning,
)
from ..estimate import KEPT_DURATIONS
from ..models import ORIGIN, Cursor, Event, Session, Task, Turn
from .base import (
    Answer,
    Append,
    Beat,
    Begun,
    Change,
    Counters,
    End,
    Limits,
    OnWakeup,
    Page,
    SessionDraft,
    SessionPage,
    Store,
    TaskDraft,
    TaskRef,
    Verdict,
    Wakeups,
    page_of,
)
from .codec import (
    SessionRecord,
    Snapshot,
    TaskRecord,
    decode_fields,
    decode_task,
    decode_turn,
    encode_turn,
    session_fields,
    session_from,
    task_at,
)
from .redis_calls import CLOCK, Argument, Calls
from .redis_wakeups import RedisWakeups

log = logging.getLogger("flask_sessionstatus")

LISTED_SESSIONS = 1000
REMEMBERED_SESSIONS = 10_000

Fields = Mapping[str, str | None]


class RedisStore(Store):
    """Sessions in Redis, shared by every process that uses the same server and prefix.

    `index_everyone` keeps one more listing, of all sessions, for hosts without owners.
    `clock` is the Lua expression for the server's time as {seconds, microseconds}; tests move it.
    """

    name = "redis"

    def __init__(
        self,
        client: redis.Redis,
        limits: Limits,
        prefix: str = "sessionstatus:",
        *,
        index_everyone: bool = False,
        clock: str = CLOCK,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self.counters = Counters()
        self._calls = Calls(client, limits, self.counters, clock, monotonic)
        self._prefix = prefix
        self._index_everyone = index_everyone
        self._conversations: LRUCache[str, str] = LRUCache(REMEMBERED_SESSIONS)
        self._lock = threading.Lock()

    def ping(self) -> None:
        self._calls.command("PING")

    def active_sessions(self) -> int | None:
        if not self._index_everyone:
            return None
        seconds, micros = self._calls.command("TIME")
        now = int(seconds) * 1000 + int(micros) // 1000
        return int(self._calls.command("ZCOUNT", self._namespace_key(None), f"({now}", "+inf"))

    @property
    def recovering(self) -> bool:
        return self._calls.recovering

    def close(self) -> None:
        self._calls.client.close()

    # Keys

    def _key(self, conversation_id: str) -> str:
        return f"{self._prefix}{{{quote(conversation_id, safe='')}}}"

    def _session_key(self, session_id: str) -> str:
        return f"{self._prefix}session:{quote(session_id, safe='')}"

    def _namespace_key(self, namespace_id: str | None) -> str:
        return f"{self._prefix}namespace:{quote(namespace_id or '', safe='')}"

    def _duration_key(self, type: str) -> str:
        return f"{self._prefix}durations:{quote(type, safe='')}"

    def channel(self, ref: TaskRef) -> str:
        return f"{self._key(ref.conversation_id)}:task:{quote(ref.task_id, safe='')}"

    def cancel_channel(self, ref: TaskRef) -> str:
        return f"{self.channel(ref)}:cancel"

    # What lies outside the conversation's slot: where a session is found, and whose sessions there are

    def _find(self, session_id: str) -> str | None:
        text = self._calls.command("GET", self._session_key(session_id))
        if text is None:
            return None
        conversation = unquote(text.decode())
        self._remember(session_id, conversation)
        return conversation

    def _remember(self, session_id: str, conversation_id: str) -> None:
        with self._lock:
            self._conversations[session_id] = conversation_id

    def _in_session(self, script: str, session_id: str, *args: Argument) -> tuple[str, Any]:
        """The conversation and a script's reply there; an empty reply is believed once the remembered place was read
        again."""
        with self._lock:
            known = self._conversations.get(session_id)
        if known is not None:
            reply = self._calls.script(script, self._key(known), quote(session_id, safe=""), *args)
            if reply:
                return known, reply
        found = self._find(session_id)
        if found is None or found == known:
            return known or "", None
        return found, self._calls.script(script, self._key(found), quote(session_id, safe=""), *args)

    def _places(self, namespace_id: str | None) -> list[str]:
        keys = {self._namespace_key(namespace_id)}
        if self._index_everyone:
            keys.add(self._namespace_key(None))
        return sorted(keys)

    @staticmethod
    def _member(session_id: str, conversation_id: str) -> str:
        return f"{quote(session_id, safe='')} {quote(conversation_id, safe='')}"

    def _reserve(self, draft: SessionDraft, life: int, task_type: str | None) -> list[int]:
        """Take the session's name and its place in the namespace; time releases both if the next step never comes.

        Returns the past durations of the task's type (ms).
        """
        conversation = quote(draft.conversation_id, safe="")
        name = self._session_key(draft.session_id)
        _, holder, past = self._calls.commands(
            ("SET", name, conversation, "NX", "PX", life),
            ("GET", name),
            ("LRANGE", self._duration_key(task_type or ""), 0, KEPT_DURATIONS - 1),
        )
        if holder is not None and holder.decode() != conversation:
            raise SessionConflict("The session belongs to another conversation.", sessionId=draft.session_id)
        member = self._member(draft.session_id, draft.conversation_id)
        for key in self._places(draft.namespace_id):
            bounded = draft.namespace_id is not None and key == self._namespace_key(draft.namespace_id)
            maximum = self.limits.max_sessions_per_namespace or 0 if bounded and draft.created_at is None else 0
            if not self._calls.script("reserve", key, member, life, maximum):
                self._release(draft)
                raise NamespaceFull(
                    f"The namespace holds its maximum of {maximum} live sessions.",
                    retry_after=max(1, self.limits.session_ttl // 1000),
                )
        return [int(duration) for duration in past]

    def _release(self, draft: SessionDraft) -> None:
        """Give back the places of a session that was not made after all, or that is somebody else's."""
        session = self.session(draft.session_id)
        if session is None:
            self._leave(draft.session_id, draft.conversation_id, draft.namespace_id)
            self._calls.command("DEL", self._session_key(draft.session_id))
        elif session.namespace_id != draft.namespace_id and draft.namespace_id is not None:
            member = self._member(draft.session_id, draft.conversation_id)
            self._calls.command("ZREM", self._namespace_key(draft.namespace_id), member)

    def _leave(self, session_id: str, conversation_id: str, namespace_id: str | None) -> None:
        member = self._member(session_id, conversation_id)
        self._calls.commands(*(("ZREM", key, member) for key in self._places(namespace_id)))

    def _keep(self, sessions: Iterable[tuple[str, str, str | None, int]]) -> None:
        """Let names and places live as long as their sessions: (session, conversation, namespace, ms left)."""
        names: list[Sequence[Argument]] = []
        places: list[tuple[str, Sequence[Argument]]] = []
        for session_id, conversation_id, namespace_id, left in sessions:
            names.append(("SET", self._session_key(session_id), quote(conversation_id, safe=""), "PX", left))
            member = self._member(session_id, conversation_id)
            places += [(key, (member, left, 0)) for key in self._places(namespace_id)]
        try:
            self._calls.commands(*names)
            replies = self._calls.scripts("reserve", places)
        except StoreUnavailable as error:
            replies = [error]
        for reply in replies:
            if isinstance(reply, Exception):
                # What was asked for is done; the next beat or write renews these.
                log.warning("A session's places were not renewed: %s", reply)

    # Sessions

    def snapshot(self, conversation_id: str) -> Snapshot:
        time_parts, fields = self._calls.script("status", self._key(conversation_id))
        return self._snapshot(conversation_id, time_parts, fields)

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
                self.counters.unreadable += 1
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
        return Snapshot(conversation_id, now, sessions, tasks, self._calls.grace)

    def session(self, session_id: str) -> Session | None:
        conversation, reply = self._in_session("session", session_id)
        return self._session(conversation, session_id, reply) if reply else None

    def _session(self, conversation_id: str, session_id: str, reply: Sequence[Any]) -> Session | None:
        time_parts, fields, own = reply
        snapshot = self._snapshot(conversation_id, time_parts, fields, session_id)
        if session_id not in snapshot.sessions:
            return None
        texts = {own[i].decode(): own[i + 1].decode() for i in range(0, len(own), 2)}
        return session_from(snapshot, session_id, texts)

    def sessions(self, namespace_id: str | None, limit: int, after: str | None) -> SessionPage:
        members = self._calls.command("ZREVRANGE", self._namespace_key(namespace_id), 0, LISTED_SESSIONS - 1)
        places = [tuple(map(unquote, member.decode().split(" "))) for member in members]
        calls = [(self._key(conversation), [quote(session, safe="")]) for session, conversation in places]
        found: list[Session] = []
        for (session_id, conversation_id), reply in zip(places, self._calls.scripts("session", calls)):
            try:
                if isinstance(reply, Exception):
                    raise reply
                session = self._session(conversation_id, session_id, reply) if reply else None
            except RecordUnreadable as error:
                log.error("Left out of a listing: %s", error)
                continue
            if session is not None and namespace_id in (None, session.namespace_id):
                found.append(session)
        return page_of(found, limit, after)

    def create_session(self, draft: SessionDraft, own: bool = True) -> None:
        self._reserve(draft, self.limits.session_ttl, None)
        self._open(draft, None, "allow", own, [])

    def update_session(self, session_id: str, fields: Fields) -> bool:
        return self.add_turns(session_id, (), fields) is not None

    def add_turns(self, session_id: str, turns: Sequence[Turn], fields: Fields) -> Sequence[Turn] | None:
        sets = [(name, text) for name, text in fields.items() if text is not None]
        removals = [name for name, text in fields.items() if text is None]
        encoded = [(quote(turn.turn_id or "-", safe=""), encode_turn(turn)) for turn in turns]
        limits = self.limits

        def update(repeated: int) -> tuple[str, Any]:
            bounds = (limits.session_ttl, limits.max_age or 0, limits.max_turns, repeated)
            changes: tuple[Argument, ...] = (
                len(sets),
                *(part for pair in sets for part in pair),
                len(removals),
                *removals,
            )
            return self._in_session(
                "update", session_id, *bounds, *changes, len(encoded), *(part for pair in encoded for part in pair)
            )

        try:
            conversation, reply = update(0)
        except StoreUnavailable:
            # It may have got through: the turns' ids tell.
            conversation, reply = update(1)
        if not reply:
            return None
        first, stamp, left, namespace = int(reply[0]), int(reply[1]), int(reply[2]), reply[3].decode() or None
        self._keep([(session_id, conversation, namespace, left)])
        return [
            decode_turn(text.encode(), unquote(turn_id), first + i, stamp) for i, (turn_id, text) in enumerate(encoded)
        ]

    def turns(self, session_id: str, before: int | None, limit: int) -> Sequence[Turn] | None:
        _, reply = self._in_session("turns", session_id, -1 if before is None else before, limit)
        if not reply:
            return None
        turns = []
        for position, text in enumerate(reply[1], start=int(reply[0])):
            stamp, turn_id, record = text.split(b" ", 2)
            turns.append(decode_turn(record, unquote(turn_id.decode()), position, int(stamp)))
        return turns

    def record_accesses(self, counts: Mapping[str, int]) -> None:
        for session_id, count in counts.items():
            self._in_session("access", session_id, count)

    def delete_session(self, session_id: str) -> bool:
        session = self.session(session_id)
        if session is None:
            return False
        key = self._key(session.conversation_id)
        deleted = self._calls.script("delete", key, quote(session_id, safe=""), self.limits.session_ttl)
        self._leave(session_id, session.conversation_id, session.namespace_id)
        return bool(deleted)

    # Tasks

    def begin(self, session: SessionDraft, task: TaskDraft, if_running: str = "allow", own: bool = True) -> Begun:
        queued = 0 if task.leased else self.limits.max_pending_age
        past = self._reserve(session, max(self.limits.session_ttl, queued), task.type)
        return self._open(session, task, if_running, own, past)

    def _open(
        self, session: SessionDraft, task: TaskDraft | None, if_running: str, own: bool, past: Sequence[int]
    ) -> Begun:
        limits = self.limits
        reply = self._calls.script(
            "begin",
            self._key(session.conversation_id),
            quote(session.session_id, safe=""),
            _session_json(session),
            quote(task.task_id, safe="") if task else "",
            _task_json(session, task, past) if task else "",
            if_running,
            *(limits.session_ttl, limits.lease, limits.max_age or 0, limits.max_pending_age, limits.connect_deadline),
            int(own),
        )
        verdict, ids = reply[0].decode(), {"sessionId": session.session_id, "conversationId": session.conversation_id}
        if verdict == "begun":
            self._remember(session.session_id, session.conversation_id)
            self.counters.sessions_created += int(reply[6])
            epoch, tail, session_created, task_created = map(int, reply[1:5])
            return Begun(epoch, tail, session_created, task_created, [unquote(each.decode()) for each in reply[5]])
        if verdict == "deleted":
            self._leave(session.session_id, session.conversation_id, session.namespace_id)
            raise NotFound("The session was deleted.", **ids)
        self._release(session)
        if verdict == "conflict":
            raise SessionConflict("The session belongs to somebody else.", **ids)
        other, other_session = unquote(reply[1].decode()), unquote(reply[2].decode())
        if verdict == "running":
            raise TaskRunning(
                "A task of this conversation is running.", taskId=other, **{**ids, "sessionId": other_session}
            )
        if verdict == "fenced":
            raise TaskRunning("A newer attempt of this task has begun.", taskId=other, **ids)
        first = self.task(other_session, other)
        if first is None:
            raise NotFound("The task that this idempotency key started is gone.", taskId=other, **ids)
        raise AlreadyStarted("The idempotency key was used before.", first, taskId=other, **ids)

    def append(self, appends: Sequence[Append]) -> Sequence[Answer | Exception]:
        limits = self.limits
        lives = (limits.session_ttl, limits.lease, limits.result_ttl or 0, limits.max_age or 0)
        bounds = (limits.max_events, *lives)
        calls: list[tuple[str, Sequence[Argument]]] = []
        for each in appends:
            place = (quote(each.ref.task_id, safe=""), each.attempt, each.epoch, each.base, each.floor)
            result = each.end.result if each.end and each.end.result is not None else ""
            says = (_change_json(each.change) if each.change else "", _end_json(each.end) if each.end else "", result)
            flat = [part for event in each.events for part in event]
            calls.append((self._key(each.ref.conversation_id), (*place, len(each.events), *says, *bounds, *flat)))
        return self._answers([each.ref for each in appends], self._calls.scripts("append", calls))

    def beat(self, beats: Sequence[Beat]) -> Sequence[Answer | Exception]:
        limits = self.limits
        bounds = (limits.lease, limits.session_ttl, limits.max_age or 0)
        calls = [
            (self._key(each.ref.conversation_id), (quote(each.ref.task_id, safe=""), each.attempt, each.epoch, *bounds))
            for each in beats
        ]
        return self._answers([each.ref for each in beats], self._calls.scripts("beat", calls))

    def _answers(self, refs: Sequence[TaskRef], replies: Sequence[Any]) -> Sequence[Answer | Exception]:
        answers: list[Answer | Exception] = []
        kept: dict[str, tuple[str, str, str | None, int]] = {}
        for ref, reply in zip(refs, replies):
            if isinstance(reply, Exception):
                answers.append(reply)
                continue
            answers.append(Answer(Verdict(reply[0].decode()), int(reply[1]), int(reply[2]) or None))
            if len(reply) > 3 and reply[3]:
                kept[ref.session_id] = (ref.session_id, ref.conversation_id, reply[4].decode() or None, int(reply[3]))
        self._keep(kept.values())
        return answers

    def cancel(self, ref: TaskRef) -> Task | None:
        reply = self._calls.script(
            "cancel", self._key(ref.conversation_id), quote(ref.session_id, safe=""), quote(ref.task_id, safe="")
        )
        if not reply:
            return None
        record = _decode_task(reply[0], ref.task_id)
        return self._task(record, ref.task_id, ref.conversation_id, reply[2], int(reply[1]))

    def _task(self, record: TaskRecord, task_id: str, conversation_id: str, namespace: bytes, now: int) -> Task:
        return task_at(record, task_id, conversation_id, namespace.decode() or None, now, self._calls.grace)

    def task(self, session_id: str, task_id: str) -> Task | None:
        found = self._tasks(session_id, 1, quote(task_id, safe=""))
        return found[0] if found else None

    def tasks(self, session_id: str, limit: int) -> Sequence[Task] | None:
        return self._tasks(session_id, limit)

    def _tasks(self, session_id: str, limit: int, *only: str) -> Sequence[Task] | None:
        conversation, reply = self._in_session("tasks", session_id, limit, *only)
        if not reply:
            return None
        now = int(reply[0])
        found = []
        for i in range(2, len(reply), 2):
            task_id = unquote(reply[i].decode())
            try:
                record = _decode_task(reply[i + 1], task_id)
            except RecordUnreadable:
                if only:
                    raise
                self.counters.unreadable += 1
                log.error("Left out of a listing: the stored record of task %s cannot be read.", task_id[:8])
                continue
            if record["session"] == session_id:
                found.append(self._task(record, task_id, conversation, reply[1], now))
        return found

    def events(self, ref: TaskRef, after: Cursor, limit: int) -> Page | None:
        reply = self._calls.script(
            "events",
            self._key(ref.conversation_id),
            quote(ref.session_id, safe=""),
            quote(ref.task_id, safe=""),
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
            self._task(_decode_task(reply[1], ref.task_id), ref.task_id, ref.conversation_id, reply[4], now),
            Cursor.parse(first) if first else None,
            [Event(Cursor.parse(key.decode()), data[1].decode(), data[3].decode()) for key, data in reply[3]],
        )

    def result(self, session_id: str, task_id: str) -> str | None:
        _, reply = self._in_session("result", session_id, quote(task_id, safe=""))
        return None if reply is None else str(reply.decode())

    def record_duration(self, type: str, duration: int) -> None:
        key = self._duration_key(type)
        self._calls.commands(("LPUSH", key, duration), ("LTRIM", key, 0, KEPT_DURATIONS - 1))

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
            return self._task(_decode_task(record, ref.task_id), ref.task_id, ref.conversation_id, b"", int(now))

        return Page(int(now), task, None, events), Cursor(epoch, base) if base else ORIGIN

    def wakeups(self, on_wakeup: OnWakeup) -> Wakeups:
        return RedisWakeups(self._calls.client, f"{self._prefix}wakeups", on_wakeup)


def _decode_task(text: bytes, task_id: str) -> TaskRecord:
    record = decode_task(text, task_id)
    record["session"] = unquote(record["session"])
    return record


def _json(record: Mapping[str, object]) -> str:
    """JSON without what is None: in Lua that would be neither nil nor false."""
    return json.dumps({name: value for name, value in record.items() if value is not None}, ensure_ascii=False)


def _session_json(draft: SessionDraft) -> str:
    fields = session_fields(draft.language, draft.device_type, draft.client_version, draft.metadata)
    flat = [part for pair in fields.items() for part in pair]
    return _json(
        {"ns": draft.namespace_id, "created": draft.created_at, "socket": draft.for_socket or None, "fields": flat}
    )


def _task_json(session: SessionDraft, draft: TaskDraft, past: Sequence[int]) -> str:
    return _json(
        {
            "type": draft.type,
            "wire": draft.wire,
            "token": draft.token,
            "attempt": draft.attempt,
            "state": "pending" if draft.pending else "running",
            "leased": draft.leased,
            "key": quote(draft.idempotency_key, safe="") if draft.idempotency_key is not None else None,
            "epoch": draft.epoch,
            "created": draft.created_at,
            "started": draft.started_at,
            "past": list(past) or None,
        }
    )


def _change_json(change: Change) -> str:
    return _json(
        {
            "state": "running" if change.running else None,
            "current": change.current,
            "total": change.total,
            "note": change.message,
            "remaining": change.remaining,
        }
    )


def _end_json(end: End) -> str:
    return _json(
        {
            "state": end.state,
            "error_type": end.error_type,
            "error_message": end.error_message,
            "trace": end.traceback,
        }
    )
