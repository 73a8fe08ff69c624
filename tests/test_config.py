from __future__ import annotations

from typing import Any

import pytest

from flask_sessionstatus import ConfigurationError
from flask_sessionstatus.config import Settings

SECONDS = [
    "SESSION_TTL",
    "LEASE",
    "HEARTBEAT",
    "MAX_PENDING_AGE",
    "RESULT_TTL",
    "MAX_AGE",
    "CONNECT_DEADLINE",
    "MAX_WAIT",
]
COUNTS = [
    *("MAX_SESSIONS", "MAX_SESSIONS_PER_NAMESPACE", "MAX_EVENTS", "MAX_EVENT_BYTES", "MAX_TURNS", "MAX_BODY_BYTES"),
    *("MAX_RESULT_BYTES", "BACKGROUND_WORKERS", "MAX_FOLLOWERS"),
]
BAD: list[tuple[str, Any]] = [
    *((key, value) for key in SECONDS for value in ("x", "", -1, 0, float("nan"), float("inf"), True, [], "1e99")),
    *((key, value) for key in COUNTS for value in ("x", "", -1, 0, 1.5, True, [], "1.5", "9" * 5000)),
    *(
        (key, value)
        for key in ("ALLOW_ANONYMOUS", "BACKGROUND_EAGER", "IN_MEMORY_FALLBACK")
        for value in ("maybe", "", 2, None, [])
    ),
    *(("DEFAULT_LANGUAGE", value) for value in ("", 7, "a\nb", None)),
    *(("CLIENT_ROLES", value) for value in ("boss", ["user", "boss"], 7, None, {"user": 1})),
    *(("KEY_PREFIX", value) for value in ("", "a{b", "a}b", 7, None)),
    *(("STORAGE_URI", value) for value in ("", 7, b"memory://")),
    *(("STORAGE_OPTIONS", value) for value in ("x", [], None, {1: 2})),
    *(("WEBSOCKET_PATH", value) for value in ("", "ws", "//ws", "/<id>", "/ws?x", "/ws#x", "/a\nb", 7)),
    *(("WEBSOCKET_ORIGINS", value) for value in ("x", "https://", "://x", "https://x/", "https://a@x", ["x"], 7, None)),
]


@pytest.mark.parametrize(("key", "value"), BAD, ids=lambda value: ascii(value)[:20])
def test_a_wrong_value_stops_the_start_and_names_its_key(key: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Settings.from_mapping({f"SESSIONSTATUS_{key}": value})
    assert f"SESSIONSTATUS_{key}" in str(refused.value)


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(ConfigurationError, match="SESSIONSTATUS_SESION_TTL"):
        Settings.from_mapping({"SESSIONSTATUS_SESION_TTL": 5})
    assert Settings.from_mapping({"OTHER_KEY": 5, "sessionstatus_lease": "x"}) == Settings()


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        *(("FALLBACK", "IN_MEMORY_FALLBACK"), ("REDIS_URL", "STORAGE_URI"), ("URL", "STORAGE_URI")),
        *(("SESION_TTL", "SESSION_TTL"), ("LEASE_SECONDS", "LEASE"), ("HEARTBEATS", "HEARTBEAT")),
    ],
)
def test_the_setting_that_may_be_meant_comes_first(key: str, meant: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Settings.from_mapping({f"SESSIONSTATUS_{key}": 5})
    assert f"flask-sessionstatus. Did you mean SESSIONSTATUS_{meant}? There are: SESSIONSTATUS" in str(refused.value)


def test_where_no_setting_is_near_none_is_named_before_the_others() -> None:
    with pytest.raises(
        ConfigurationError, match=r"SESSIONSTATUS_FOO is no setting of flask-sessionstatus\. There are: "
    ):
        Settings.from_mapping({"SESSIONSTATUS_FOO": 5})


@pytest.mark.parametrize("key", ["IN_MEMORY_FALLBACK", "ALLOW_ANONYMOUS"])
@pytest.mark.parametrize("value", ["", None])
def test_who_says_nothing_is_told_to_leave_it_out(key: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"true or false, not {value!r}: leave it out for false\.$"):
        Settings.from_mapping({f"SESSIONSTATUS_{key}": value})


@pytest.mark.parametrize("value", ["memory", "memory://"])
def test_the_fallbacks_memory_is_not_chosen(value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"must be true or false, .*: it is always this process's memory\.$"):
        Settings.from_mapping({"SESSIONSTATUS_IN_MEMORY_FALLBACK": value})


@pytest.mark.parametrize("uri", [" redis://:secret@host", "redis://:secret@host ", " memory://"])
def test_a_space_around_a_uri_is_named(uri: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{'begins' if uri[0] == ' ' else 'ends'} with a space") as refused:
        Settings.from_mapping({"SESSIONSTATUS_STORAGE_URI": uri})
    assert "secret" not in str(refused.value)


def test_a_scheme_is_read_in_lower_case_and_nothing_else() -> None:
    for given, read in (("Redis://User:PW@Host", "redis://User:PW@Host"), ("MEMORY://", "memory://"), ("Red", "Red")):
        assert Settings.from_mapping({"SESSIONSTATUS_STORAGE_URI": given}).storage_uri == read


@pytest.mark.parametrize("key", ["IN_MEMORY_FALLBACK", "MAX_SESSIONS", "LEASE", "WEBSOCKET_PATH", "EXISTING_KEYS"])
@pytest.mark.parametrize("uri", ["redis://:secret@host", "redis://host?password=secret"])
def test_a_uri_in_the_wrong_setting_is_not_repeated(key: str, uri: str) -> None:
    for value in (uri, {"stream": uri}):
        with pytest.raises(ConfigurationError) as refused:
            Settings.from_mapping({f"SESSIONSTATUS_{key}": value})
        assert "secret" not in str(refused.value)


def test_the_defaults_are_the_contracts() -> None:
    settings = Settings.from_mapping({})
    assert (settings.storage_uri, settings.key_prefix, settings.default_language) == (None, "sessionstatus:", "nl")
    assert (settings.session_ttl, settings.lease, settings.heartbeat) == (1800, 30, 5)
    assert (settings.max_sessions, settings.max_pending_age, settings.max_events) == (10_000, 3600, 10_000)
    assert (settings.max_event_bytes, settings.max_turns) == (65_536, 1000)
    assert (settings.max_body_bytes, settings.max_result_bytes) == (1_048_576, 1_048_576)
    assert (settings.connect_deadline, settings.max_wait, settings.background_workers) == (30, 25, 8)
    assert (settings.client_roles, settings.allow_anonymous) == (("user",), False)
    assert (settings.websocket_path, settings.websocket_origins) == (None, ())
    assert settings.limits.session_ttl == 1_800_000


@pytest.mark.parametrize("word", ["true", "True", "1", "yes", "on", "Y", " t ", True, 1])
def test_the_usual_words_are_true(word: Any) -> None:
    assert Settings.from_mapping({"SESSIONSTATUS_ALLOW_ANONYMOUS": word}).allow_anonymous is True


@pytest.mark.parametrize("word", ["false", "False", "0", "no", "off", "N", " f ", False, 0])
def test_the_usual_words_are_false(word: Any) -> None:
    assert Settings.from_mapping({"SESSIONSTATUS_ALLOW_ANONYMOUS": word}).allow_anonymous is False


def test_texts_of_the_environment_are_read_as_numbers() -> None:
    settings = Settings.from_mapping({"SESSIONSTATUS_LEASE": "12.5", "SESSIONSTATUS_MAX_EVENTS": "7"})
    assert (settings.lease, settings.max_events, settings.limits.lease) == (12.5, 7, 12_500)


def test_roles_are_read_from_a_text_or_a_list() -> None:
    for value in ("user, assistant", "user assistant", ["user", "assistant"], ("user", "assistant")):
        assert Settings.from_mapping({"SESSIONSTATUS_CLIENT_ROLES": value}).client_roles == ("user", "assistant")


def test_origins_are_read_from_a_text_or_a_list() -> None:
    expected = ("https://a.example", "http://b.example:8080")
    for value in ("https://A.example, http://b.example:8080", "https://a.example http://b.example:8080", expected):
        assert Settings.from_mapping({"SESSIONSTATUS_WEBSOCKET_ORIGINS": value}).websocket_origins == expected
    assert Settings.from_mapping({"SESSIONSTATUS_WEBSOCKET_ORIGINS": ""}).websocket_origins == ()


def test_a_session_must_not_live_shorter_than_a_lease() -> None:
    with pytest.raises(ConfigurationError, match="SESSIONSTATUS_SESSION_TTL"):
        Settings.from_mapping({"SESSIONSTATUS_SESSION_TTL": 20})


def test_two_heartbeats_must_fit_in_a_lease() -> None:
    with pytest.raises(ConfigurationError, match="SESSIONSTATUS_HEARTBEAT"):
        Settings.from_mapping({"SESSIONSTATUS_HEARTBEAT": 16})


def test_a_wrong_uri_or_option_is_not_repeated() -> None:
    for key in ("STORAGE_URI", "STORAGE_OPTIONS"):
        with pytest.raises(ConfigurationError) as refused:
            Settings.from_mapping({f"SESSIONSTATUS_{key}": ["secret"]})
        assert "secret" not in str(refused.value)
