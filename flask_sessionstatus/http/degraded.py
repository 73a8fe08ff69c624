"""What a client is told while this process has a world of its own."""

from __future__ import annotations

from flask import Flask, Response, request

from ..processes import sign_of_several
from ..state import state_of

HEADER = "SessionStatus-Degraded"


def add_signs(app: Flask, blueprint: str) -> None:
    """Where this app's store may be memory, have the responses of a blueprint say so, and notice who else serves it.

    Other apps' requests pay nothing for it.
    """
    state = state_of(app)
    if state.settings.in_memory_fallback:

        def say_so(response: Response) -> Response:
            if state.store.degraded:
                response.headers[HEADER] = "memory"
            return response

        app.after_request_funcs.setdefault(blueprint, []).append(say_so)
    if state.in_memory:

        def notice() -> None:
            if request.environ.get("wsgi.multiprocess"):  # PEP 3333: another process may be serving this app as well
                state.notice_several(sign_of_several() or "The server runs this app in several processes")

        app.before_request_funcs.setdefault(blueprint, []).append(notice)
