"""The Flask app of RQ's worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from flask import Flask

from flask_sessionstatus import ConfigurationError
from flask_sessionstatus.integrations.rq import find_app

if TYPE_CHECKING:
    from integrations.rq_workers import Jobs

pytest_plugins = ["integrations.rq_workers"]

HOST = """
from flask import Flask
from flask_sessionstatus import SessionStatus

sessionstatus = SessionStatus(identify=lambda: "u1")

def create_app():
    app = Flask("chat")
    app.config.from_prefixed_env()
    sessionstatus.init_app(app)
    return app
"""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.delenv("FLASK_APP", raising=False)
    monkeypatch.setenv("FLASK_SESSIONSTATUS_STORAGE_URI", "redis://localhost:1/0")
    monkeypatch.syspath_prepend("")
    return monkeypatch


def settings_of(app: Flask) -> str:
    return app.extensions["sessionstatus"].settings.storage_uri  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["{}", "{}:create_app"])
def test_it_is_the_one_that_flask_finds(environment: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    path = tmp_path / "chat_host.py"
    path.write_text(HOST)
    environment.setenv("FLASK_APP", name.format(path))
    app = find_app()
    assert (app.name, settings_of(app)) == ("chat", "redis://localhost:1/0")


def test_without_a_name_it_is_made_from_the_environment(environment: pytest.MonkeyPatch) -> None:
    assert settings_of(find_app()) == "redis://localhost:1/0"


def test_one_without_the_extension_is_refused(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "bare_host.py"
    path.write_text("from flask import Flask\napp = Flask('bare')\n")
    environment.setenv("FLASK_APP", str(path))
    with pytest.raises(ConfigurationError, match="init_app"):
        find_app()


def test_a_job_runs_under_its_context(fresh: Jobs, tmp_path: Path) -> None:
    path = tmp_path / "chat_host.py"
    path.write_text(HOST)
    fresh.worker(FLASK_APP=f"{path}:create_app")
    job = fresh.enqueue()
    job.begins()
    assert job.do("name the app") == "chat"
    job.tell("return", 1)
    job.has_ended_once("completed")


def test_a_worker_without_a_store_that_others_see_does_not_start(fresh: Jobs) -> None:
    worker = fresh.worker(FLASK_SESSIONSTATUS_STORAGE_URI="memory://")
    worker.has_ended(status=1)
    assert "set SESSIONSTATUS_STORAGE_URI" in worker.log.read_text()
