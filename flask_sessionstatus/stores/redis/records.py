"""What goes to the scripts and comes back: drafts, changes and ends as JSON, records as models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from urllib.parse import unquote

from ..base import Change, End, SessionDraft, TaskDraft
from ..codec import TaskRecord, decode_task, session_fields
from .keys import quoted


def decode(text: bytes, task_id: str) -> TaskRecord:
    """A task's record. Raises RecordUnreadable."""
    record = decode_task(text, f"task:{task_id}")
    record["session"] = unquote(record["session"])
    return record


def session_json(draft: SessionDraft) -> str:
    fields = session_fields(draft.language, draft.device_type, draft.client_version, draft.metadata)
    flat = [part for pair in fields.items() for part in pair]
    return _json(
        {
            "ns": draft.namespace_id,
            "key": draft.key,
            "created": draft.created_at,
            "socket": draft.for_socket or None,
            "fields": flat,
        }
    )


def task_json(draft: TaskDraft, past: Sequence[int]) -> str:
    """A task that begins; `past` are the durations of earlier ones of its type (ms)."""
    return _json(
        {
            "type": draft.type,
            "wire": draft.wire,
            "token": draft.token,
            "attempt": draft.attempt,
            "state": "pending" if draft.pending else "running",
            "leased": draft.leased,
            "key": quoted(draft.idempotency_key) if draft.idempotency_key is not None else None,
            "epoch": draft.epoch,
            "created": draft.created_at,
            "started": draft.started_at,
            "past": list(past) or None,
        }
    )


def change_json(change: Change) -> str:
    return _json(
        {
            "state": "running" if change.running else None,
            "current": change.current,
            "total": change.total,
            "note": change.message,
            "remaining": change.remaining,
            "ticket": change.ticket,
        }
    )


def end_json(end: End) -> str:
    return _json(
        {
            "state": end.state,
            "error_type": end.error_type,
            "error_message": end.error_message,
            "trace": end.traceback,
            "wait": end.wait,
            "forced": end.forced or None,
        }
    )


def _json(record: Mapping[str, object]) -> str:
    """JSON without what is None: in Lua that would be neither nil nor false."""
    return json.dumps({name: value for name, value in record.items() if value is not None}, ensure_ascii=False)
