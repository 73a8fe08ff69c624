"""docs/existing_keys.md: its host beside a chat back end, in processes of their own, and what its tables say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import redis
from existing import KEYS, Program
from flask.testing import FlaskClient
from readme.blocks import ROOT, blocks, rows
from topologies import wait_for

from flask_sessionstatus.config import Settings
from flask_sessionstatus.models import RESERVED_EVENT_TYPES
from flask_sessionstatus.stores.existing_keys.entries import STATES
from flask_sessionstatus.stores.existing_keys.templates import NAMES, WHOLE

GUIDE = "docs/existing_keys.md"
PATH = "/api/v1/conversations/alice:trip/active-session"


def as_user(app: Any, user: str) -> FlaskClient:
    client: FlaskClient = app.test_client()
    with client.session_transaction() as session:
        session["user"] = user
    return client


def test_the_host_shows_the_sessions_of_the_program_to_whom_they_are(empty_redis: Callable[[], str]) -> None:
    url = empty_redis()
    host: dict[str, Any] = {"__name__": "app"}
    exec(blocks(GUIDE)["app.py"].replace("redis://localhost:6379/0", url), host)
    program = Program(url)
    try:
        alice, bob = as_user(host["app"], "alice"), as_user(host["app"], "bob")
        assert alice.get(PATH).status_code == 404
        program.answer("alice:trip", "run-1", 3)
        wait_for(lambda: alice.get(PATH).status_code == 200, "the session")
        assert alice.get(PATH).json["status"] == "completed"  # type: ignore[index]
        assert bob.get(PATH).status_code == 403
        assert host["app"].test_client().get(PATH).status_code == 401
        with redis.Redis.from_url(url) as client:
            exec(blocks(GUIDE)["announcement"], {"client": client})
        assert alice.get(PATH).json["sessionId"] == "run-1"  # type: ignore[index]
    finally:
        host["app"].extensions["sessionstatus"].stop(5)
        program.close()


def test_the_channel_of_announcements_is_the_one_that_is_heard(empty_redis: Callable[[], str]) -> None:
    url = empty_redis()
    host: dict[str, Any] = {"__name__": "app"}
    exec(blocks(GUIDE)["app.py"].replace("redis://localhost:6379/0", url), host)
    try:
        as_user(host["app"], "alice").get(PATH)
        with redis.Redis.from_url(url) as client:
            name = re.findall(r'publish\("([^"]+)"', blocks(GUIDE)["announcement"])[0]
            wait_for(lambda: client.pubsub_numsub(name)[0][1] == 1, "the listener")
    finally:
        host["app"].extensions["sessionstatus"].stop(5)


def test_the_settings_in_the_environment_are_the_same() -> None:
    text = re.findall(r'"SESSIONSTATUS_EXISTING_KEYS"\] = (\{.*?\n\})', blocks(GUIDE)["app.py"], re.DOTALL)[0]
    assert eval(text) == KEYS
    settings = Settings.from_mapping({"SESSIONSTATUS_EXISTING_KEYS": json.dumps(eval(text))})
    assert settings == Settings.from_mapping({"SESSIONSTATUS_EXISTING_KEYS": KEYS})


def test_the_tables_tell_every_name_and_every_word() -> None:
    told = [row[0] for row in rows((ROOT / GUIDE).read_text(encoding="utf-8"))]
    assert [name for name in (*NAMES, WHOLE) if f"`{name}`" not in told] == []
    words = {word for row in told for word in re.findall(r"`(\w+)`", row)}
    assert set(STATES) <= words
    text = (ROOT / GUIDE).read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in RESERVED_EVENT_TYPES - {"end"})
