"""Who is asking: a browser, known by an id in its signed cookie."""

from __future__ import annotations

from uuid import uuid4

from flask import session


def current_visitor() -> str | None:
    """The visitor's id, or None for a browser that has not opened a page yet."""
    visitor: str | None = session.get("visitor")
    return visitor


def welcome() -> None:
    """Gives a new browser its id."""
    if current_visitor() is None:
        session.permanent = True
        session["visitor"] = str(uuid4())
