"""`/client.js`: the JavaScript client, one ES module without dependencies, beside the routes that it speaks to."""

from __future__ import annotations

from pathlib import Path

from flask import Response, send_from_directory
from flask_smorest import Blueprint

from .docs import document

STATIC = Path(__file__).parent / "static"
MAX_AGE = 3600


def add_client(blueprint: Blueprint) -> None:
    """Add the module and its type declarations. They are code, the same for everybody: nobody is asked who he is."""

    @blueprint.route("/client.js")
    @document(blueprint, 200, None, summary="The JavaScript client (an ES module)")
    def client_module() -> Response:
        return send_from_directory(STATIC, "client.js", mimetype="text/javascript", max_age=MAX_AGE)

    @blueprint.route("/client.d.ts")
    @document(blueprint, 200, None, summary="The JavaScript client's type declarations")
    def client_types() -> Response:
        return send_from_directory(STATIC, "client.d.ts", mimetype="text/plain", max_age=MAX_AGE)
