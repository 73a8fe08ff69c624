"""`/health` and `/stats`: for those who run the app."""

from __future__ import annotations

import time

from flask import Response
from flask_smorest import Blueprint

from ..errors import Forbidden, SessionStatusError
from ..state import app_state
from .docs import document
from .responses import json_response
from .schemas import SessionStatusHealthSchema, camel_case


def add_operations(blueprint: Blueprint) -> None:
    """Add the operators' routes."""

    @blueprint.route("/health")
    @document(blueprint, 200, SessionStatusHealthSchema, 503, summary="Whether the store answers")
    def health() -> Response:
        state = app_state()
        store = state.store
        began = time.perf_counter()
        try:
            store.ping()
        except SessionStatusError:
            body = {"status": "unavailable", "store": store.name, "degraded": False, "latencyMs": None}
            return json_response(body, 503, {"Retry-After": "1"})
        latency = round((time.perf_counter() - began) * 1000, 3)
        degraded = state.degraded
        status = "degraded" if degraded else "ok"
        return json_response({"status": status, "store": store.name, "degraded": degraded, "latencyMs": latency})

    @blueprint.route("/stats")
    @document(blueprint, 200, None, 403, summary="What all processes counted; operators only")
    def stats() -> Response:
        state = app_state()
        is_operator = state.hooks.is_operator
        if is_operator is None:
            raise Forbidden("Nobody has said who operates this app: give SessionStatus(is_operator=…).")
        if not is_operator():
            raise Forbidden("Only operators may read this.")
        return json_response({camel_case(name): value for name, value in state.stats().items()})
