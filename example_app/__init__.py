"""A host application: it reads texts, streams summaries and answers questions, and a reload loses nothing.

    flask --app example_app run
    gunicorn -w 3 --threads 32 "example_app:create_app()"     # with FLASK_SESSIONSTATUS_STORAGE_URI=redis://…

No process keeps anything of its own: what runs and what was said is in the store of flask_sessionstatus, and the texts
are files in the instance folder, which all processes must share (`EXAMPLE_DOCUMENTS`).
"""

from __future__ import annotations

from collections.abc import Mapping

from flask import Flask, Response
from flask_smorest import Api

from example_app import assistant_views, views
from example_app.documents import secret_key
from example_app.extensions import sessionstatus

API_PREFIX = "/api/v1"
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


def create_app(config: Mapping[str, object] | None = None) -> Flask:
    app = Flask(__name__, instance_relative_config=True)
    app.config.from_mapping(
        API_TITLE="flask_sessionstatus example",
        API_VERSION="v1",
        OPENAPI_VERSION="3.0.3",
        OPENAPI_URL_PREFIX="/docs",
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_REFRESH_EACH_REQUEST=False,
        SESSIONSTATUS_SESSION_TTL=24 * 3600,
        EXAMPLE_API_PREFIX=API_PREFIX,
        EXAMPLE_DOCUMENTS=app.instance_path,
        EXAMPLE_MAX_TEXT_BYTES=2_000_000,
        MAX_CONTENT_LENGTH=5_000_000,
        MAX_FORM_MEMORY_SIZE=5_000_000,
        EXAMPLE_TOKENS_PER_SECOND=25,
    )
    app.config.from_prefixed_env()
    app.config.from_mapping(config or {})
    app.config["SECRET_KEY"] = app.config["SECRET_KEY"] or secret_key(app.config["EXAMPLE_DOCUMENTS"])

    sessionstatus.init_app(app)
    api = Api(app)
    api.register_blueprint(sessionstatus.create_blueprint(), url_prefix=API_PREFIX)
    app.register_blueprint(views.pages)
    app.register_blueprint(assistant_views.pages)
    app.after_request(_protect)
    return app


def _protect(response: Response) -> Response:
    response.headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Referrer-Policy", "same-origin")
    return response
