"""What README.md says of the package is what the package says of itself."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path
from shutil import copy

import pytest
from flask import Flask
from readme.blocks import ROOT, blocks, readme, rows, section

from flask_sessionstatus import SessionStatus
from flask_sessionstatus.config import PREFIX, Settings

NEEDED = ("redis-server", "chromium", "node", "npm", "openssl")


def test_the_package_under_test_is_the_wheel() -> None:
    if os.environ.get("SESSIONSTATUS_FROM_WHEEL") != "1":
        pytest.skip("Only tox tests the wheel.")
    import flask_sessionstatus

    assert ROOT not in Path(flask_sessionstatus.__file__).parents or ".tox" in flask_sessionstatus.__file__


@pytest.mark.parametrize("name", ["example command", "test command"])
def test_each_set_up_command_is_one_line_and_stands_there_once(name: str) -> None:
    command = blocks()[name]
    assert command.count("\n") == 1
    assert readme().count(command) == 1
    assert readme().count("python3 -m venv") == 2


def test_ci_calls_the_test_command_of_the_readme_and_lets_nothing_be_skipped(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    told = "echo $SESSIONSTATUS_REQUIRE_BROWSER $SESSIONSTATUS_REQUIRE_REDIS; cat; exit 7\n"
    text = readme().replace(blocks()["test command"], told)
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in NEEDED:
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    done = subprocess.run(
        [str(tmp_path / ".ci" / "run")],
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
        input="never read",
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.stdout, done.returncode) == (f"{told}1 1\n", 7), done.stderr


def test_the_host_application_has_at_most_twenty_lines() -> None:
    assert len([line for line in blocks()["app.py"].splitlines() if line.strip()]) <= 20


def test_the_table_lists_exactly_the_settings_in_their_order() -> None:
    listed = [row[0].strip("`") for row in rows(section("Configuration"))]
    assert listed == [f"{PREFIX}{each.name.upper()}" for each in fields(Settings)]


@pytest.mark.parametrize("row", rows(section("Configuration")), ids=lambda row: row[0].strip("`"))
def test_the_table_tells_each_settings_default(row: list[str]) -> None:
    key, told = row[0].strip("`"), row[1].replace("`", "")
    each = next(each for each in fields(Settings) if f"{PREFIX}{each.name.upper()}" == key)
    default = each.default_factory() if each.default_factory is not MISSING else each.default
    if default is None:
        assert told.split(":")[0] == "none" or key.endswith("MAX_FOLLOWERS")
    elif isinstance(default, tuple):
        assert told == (" ".join(default) or "none")
    elif isinstance(default, bool):
        assert told == str(default).lower()
    elif isinstance(default, float):
        assert float(told) == default
    else:
        assert told == str(default)


def test_the_table_lists_exactly_the_routes() -> None:
    app = Flask(__name__)
    app.config["SESSIONSTATUS_WEBSOCKET_PATH"] = "/ws"
    app.register_blueprint(SessionStatus(app, identify=lambda: None).create_blueprint(), url_prefix="")
    real = {("WebSocket", "{}") for rule in app.url_map.iter_rules() if rule.websocket}
    for rule in app.url_map.iter_rules():
        if rule.endpoint.startswith("sessionstatus."):
            path = re.sub(r"<(?:\w+:)?(\w+)>", "{}", rule.rule)
            real |= {(method, path) for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}
    told = set()
    for cell, _ in rows(section("Routes")):
        base = ""
        methods: list[str] = []
        for quoted in re.findall(r"`([^`]+)`", cell):
            *method, path = quoted.split(" ") if " " in quoted or "/" in quoted else [quoted, ""]
            methods += method
            if not path:
                continue
            path = re.sub(r"\{\w+\}", "{}", path.partition("?")[0])
            if path.startswith("…"):
                path = base + path.removeprefix("…")
            else:
                base = path
            told |= {(each, path) for each in methods}
            if "," not in cell:
                methods = []
    assert told == real


def test_every_call_of_an_integration_is_there() -> None:
    pytest.importorskip("gevent")
    calls = re.findall(r"\| `task, \w+ = (?:await )?(\w+)\.(\w+)\(", readme())
    assert len(calls) == 6
    for module, name in calls:
        assert callable(getattr(import_module(f"flask_sessionstatus.integrations.{module}"), name))


def test_every_file_that_is_linked_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", readme())
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_the_changelog_tells_of_this_version(wheel: Path) -> None:
    assert f"## [{wheel.name.split('-')[1]}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
