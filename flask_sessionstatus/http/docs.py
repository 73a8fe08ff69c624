"""What the OpenAPI document says of a route."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from flask_smorest import Blueprint
from marshmallow import Schema

from .schemas import SessionStatusErrorSchema

Decorator = Callable[[Any], Any]

READ = (401, 403, 404, 422, 503)
WRITE = (400, *READ, 413, 415)
EVENT_STREAM = "text/event-stream"
_ERROR = SessionStatusErrorSchema()


def document(
    blueprint: Blueprint,
    status: int,
    schema: type[Schema] | Schema | None,
    *errors: int,
    summary: str,
    stream: bool = False,
    also_stream: bool = False,
    not_modified: bool = False,
) -> Decorator:
    """Document a route whose view returns a complete response: its success, and the errors it may answer.

    `stream`: it answers with a stream; `also_stream`: with one where the client asks for that.

    flask-smorest documents by wrapping. The wrappers would cost more than a status read and have nothing to do here,
    so the view keeps what they wrote down and goes without them.
    """
    decorators = [blueprint.doc(summary=summary)]
    if not stream:
        decorators.append(blueprint.response(status, schema))
    if stream or also_stream:
        events = {"type": "string", "description": "Server-sent events; the last is `end`"}
        decorators.append(blueprint.response(status, events, content_type=EVENT_STREAM, description="The stream"))
        decorators.append(blueprint.alt_response(204, description="Nothing (more) to stream"))
    if not_modified:
        decorators.append(blueprint.alt_response(304, description="Not modified since the ETag in If-None-Match"))
    for error in errors:
        described = HTTPStatus(error).phrase
        decorators.append(blueprint.alt_response(error, schema=_ERROR, description=described))

    def decorate(view: Any) -> Any:
        documented = view
        for decorator in decorators:
            documented = decorator(documented)
        view._apidoc = documented._apidoc
        return view

    return decorate
