"""JSON answers: shaped by a schema, with an ETag made of what is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b
from json import JSONEncoder
from operator import attrgetter
from typing import Any

from flask import Response, request
from marshmallow import Schema

encode = JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode

Headers = Mapping[str, str]


def json_response(body: Any, status: int = 200, headers: Headers | None = None) -> Response:
    """A JSON response in the encoding that this package uses, whatever the host's is."""
    return Response(encode(body), status, headers, mimetype="application/json")


def dumper(schema: Schema) -> Callable[[Any], dict[str, Any]]:
    """What `schema.dump` does for a schema of plain values, at a fraction of the cost."""
    getters = [(field.data_key or name, attrgetter(field.attribute or name)) for name, field in schema.fields.items()]
    return lambda value: {key: get(value) for key, get in getters}


def revalidated(body: Any) -> Response:
    """A JSON response that the client may keep but must revalidate; 304 when it has this very body (RFC 9110,
    13.1.2)."""
    text = encode(body).encode()
    tag = f'"{blake2b(text, digest_size=12).hexdigest()}"'
    headers = [("Content-Type", "application/json"), ("ETag", tag), ("Cache-Control", "private, no-cache")]
    response = Response(text, 200, headers)
    if "HTTP_IF_NONE_MATCH" in request.environ:
        response.make_conditional(request.environ)
    return response
