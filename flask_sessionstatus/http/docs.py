"""What the OpenAPI document says of a route."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeVar

from flask_smorest import Blueprint
from marshmallow import Schema

from .schemas import SessionStatusErrorSchema

View = TypeVar("View", bound=Callable[..., Any])
Decorator = Callable[[Any], Any]

EVENT_STREAM = "text/event-stream"


def document(
    blueprint: Blueprint,
    status: int,
    schema: type[Schema] | Schema | None,
    *,
    summary: str,
    stream: bool = False,
    not_modified: bool = False,
) -> Decorator:
    """Document a route's success; the view returns a complete response."""

    def decorate(view: Any) -> Any:
        if stream:
            events = {"type": "string", "description": "Server-sent events; the last is `end`"}
            view = blueprint.response(status, events, content_type=EVENT_STREAM, description="The stream")(view)
            view = blueprint.alt_response(204, description="Nothing (more) to stream")(view)
        else:
            view = blueprint.response(status, schema)(view)
        if not_modified:
            view = blueprint.alt_response(304, description="Not modified since the ETag in If-None-Match")(view)
        return blueprint.doc(summary=summary)(view)

    return decorate


def errors_of(blueprint: Blueprint, *statuses: int) -> Decorator:
    """Document the errors of a route."""

    def decorate(view: Any) -> Any:
        for status in statuses:
            described = HTTPStatus(status).phrase
            view = blueprint.alt_response(status, schema=SessionStatusErrorSchema, description=described)(view)
        return view

    return decorate
