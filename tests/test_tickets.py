"""Tickets: what is written is read again, and what is none is refused with a reason."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from harness import START, STRANGE_IDS, a_session, a_task

from flask_sessionstatus import InvalidValue
from flask_sessionstatus.tickets import Ticket


def a_ticket(**fields: Any) -> Ticket:
    session = a_session(created_at=START, metadata={"a": [1, None, "é"]}, device_type="phone", client_version="1.2")
    task = a_task(epoch=START, created_at=START, pending=True, leased=False, idempotency_key="k/1", **fields)
    return Ticket(session, task, START + 1000)


@pytest.mark.parametrize("name", STRANGE_IDS)
def test_a_ticket_is_read_as_it_was_written(name: str) -> None:
    ticket = a_ticket(attempt=3, wire="ai-sdk", type="report")
    session = replace(ticket.session, session_id=name, conversation_id=name, namespace_id=None)
    ticket = replace(ticket, session=session, task=replace(ticket.task, task_id=name))
    assert Ticket.parse(str(ticket)) == ticket
    assert Ticket.parse(json.loads(json.dumps(str(ticket)))) == ticket


def changed(path: str, value: Any) -> str:
    """The text of a ticket with one value changed; `...` takes it away."""
    whole = json.loads(str(a_ticket()))
    *folders, name = path.split(".")
    place = whole
    for folder in folders:
        place = place[folder]
    if value is ...:
        del place[name]
    else:
        place[name] = value
    return json.dumps(whole)


def test_a_ticket_of_before_a_draft_had_a_field_is_read() -> None:
    ticket = Ticket.parse(changed("session.device_type", ...))
    assert ticket.session.device_type is None


WRONG = [
    ("v", 2, "version"),
    ("v", ..., "version"),
    ("until", ..., "until"),
    ("until", "soon", "until"),
    ("until", -1, "until"),
    ("session", [], "session"),
    ("session", ..., "session"),
    ("session.more", 1, "session.more"),
    ("session.session_id", ..., "session.session_id"),
    ("session.session_id", "a/b", "sessionId"),
    ("session.conversation_id", "", "conversationId"),
    ("session.namespace_id", 7, "session.namespace_id"),
    ("session.namespace_id", "..", "namespaceId"),
    ("session.language", None, "session.language"),
    ("session.metadata", None, "session.metadata"),
    ("session.metadata", {"a": float("nan")}, "JSON"),
    ("session.created_at", True, "session.created_at"),
    ("session.created_at", 1.5, "session.created_at"),
    ("session.created_at", 10**15, "session.created_at"),
    ("task.task_id", "x" * 257, "taskId"),
    ("task.token", None, "task.token"),
    ("task.type", "end", "reserved"),
    ("task.wire", "smoke", "task.wire"),
    ("task.attempt", 0, "task.attempt"),
    ("task.epoch", "x", "task.epoch"),
    ("task.epoch", None, "waits"),
    ("task.created_at", ..., "waits"),
    ("session.created_at", None, "waits"),
    ("task.leased", True, "waits"),
    ("task.leased", 1, "task.leased"),
    ("task.pending", False, "waits"),
]


@pytest.mark.parametrize(("path", "value", "reason"), WRONG)
def test_a_ticket_of_another_shape_is_refused_with_a_reason(path: str, value: Any, reason: str) -> None:
    with pytest.raises(InvalidValue, match=reason):
        Ticket.parse(changed(path, value))


@pytest.mark.parametrize("text", ["{", "{}", "[]", "null", '"x"', "{" * 100_000, "\ud800"])
def test_what_is_no_ticket_at_all_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match="not the ticket"):
        Ticket.parse(text)
