"""Reading requests: strict JSON, bounded, checked by a schema before anything is changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from flask import Request
from marshmallow import Schema, ValidationError
from webargs import missing
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import RequestEntityTooLarge

from ..errors import BadRequest, BodyTooLarge, InvalidValue, UnsupportedBody
from ..models import to_json
from ..state import app_state


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def read_json(request: Request) -> Any:
    """The request's body; `missing` when it is empty. Raises BadRequest, UnsupportedBody, BodyTooLarge,
    InvalidValue."""
    maximum = app_state().settings.max_body_bytes
    if request.content_length is not None and request.content_length > maximum:
        raise BodyTooLarge(f"The request body is longer than {maximum} bytes.")
    try:
        raw = request.stream.read(maximum + 1)
    except RequestEntityTooLarge:
        raise BodyTooLarge("The request body is too large.") from None
    if len(raw) > maximum:
        raise BodyTooLarge(f"The request body is longer than {maximum} bytes.")
    if not raw.strip():
        return missing
    if not request.is_json:
        raise UnsupportedBody("The request body must be JSON (Content-Type: application/json) or empty.")
    return parse_json(raw, "The request body")


def parse_json(text: bytes | str, what: str) -> Any:
    """Strict JSON: no NaN, valid UTF-8, no lone surrogates. Raises BadRequest, naming `what`, and InvalidValue."""
    try:
        value = json.loads(text.decode("utf-8") if isinstance(text, bytes) else text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise BadRequest(f"{what} is not JSON.") from None
    try:
        to_json(value)
    except InvalidValue:  # valid JSON, and yet no text that could be sent on
        sentence = f"{what} holds half of a surrogate pair, which is no text."
        raise InvalidValue(sentence, {"body": ["Half of a surrogate pair."]}) from None
    return value


def flat(messages: Any, path: str = "") -> dict[str, list[str]]:
    """Nested validation messages as {field: [messages]}; a nested field is named `metadata.key` or `0.content`."""
    if isinstance(messages, Mapping):
        merged: dict[str, list[str]] = {}
        for name, inner in messages.items():
            own = path if name in ("_schema", "json", "query") else f"{path}.{name}" if path else str(name)
            for field, texts in flat(inner, own).items():
                merged.setdefault(field, []).extend(texts)
        return merged
    return {path or "body": [str(text) for text in (messages if isinstance(messages, list) else [messages])]}


class StrictParser(FlaskParser):
    """webargs' parser with this package's errors."""

    DEFAULT_UNKNOWN_BY_LOCATION: dict[str, str | None] = {"json": "raise", "query": "exclude"}  # noqa: RUF012

    def load_json(self, req: Request, schema: Schema) -> Any:
        value = read_json(req)
        return {} if value is missing and not schema.many else value

    def handle_error(
        self, error: ValidationError, req: Request, schema: Schema, *, error_status_code: Any, error_headers: Any
    ) -> NoReturn:
        raise InvalidValue("The request holds invalid values.", flat(error.messages))
