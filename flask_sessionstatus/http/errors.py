"""Errors as JSON: the one place where they meet HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response
from werkzeug.exceptions import HTTPException

from .. import errors
from ..errors import SessionStatusError
from .responses import json_response

STATUS: Mapping[type[SessionStatusError], int] = {
    errors.BadRequest: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.TaskRunning: 409,
    errors.AlreadyStarted: 409,
    errors.SessionConflict: 409,
    errors.Cancelled: 409,
    errors.BodyTooLarge: 413,
    errors.UnsupportedBody: 415,
    errors.InvalidValue: 422,
    errors.NamespaceFull: 429,
    errors.ConversationFull: 429,
    errors.RecordUnreadable: 500,
    errors.StoreUnavailable: 503,
    errors.OutboxFull: 503,
    SessionStatusError: 500,
}

_SENTENCES = {
    404: "Not found",
    413: "The request body is too large.",
    415: "The request body must be JSON or empty.",
    422: "The request holds invalid values.",
}


def respond(error: SessionStatusError) -> Response:
    """The response for an error of this package."""
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    headers = {}
    if status in (429, 503):
        headers["Retry-After"] = str(getattr(error, "retry_after", 1))
    return json_response(body_of(error), status, headers)


def body_of(error: SessionStatusError) -> dict[str, Any]:
    """What a client is told of an error of this package: the sentence, the ids, and the fields that are wrong."""
    body: dict[str, Any] = {"error": error.message, **error.ids}
    if isinstance(error, errors.InvalidValue):
        body["errors"] = error.errors
    return body


def respond_to_http(error: HTTPException) -> Response:
    """The response for an HTTP error raised below our routes by Flask, webargs or the host, in the same form."""
    status = error.code or 500
    return json_response({"error": _SENTENCES.get(status, error.description or error.name)}, status)
