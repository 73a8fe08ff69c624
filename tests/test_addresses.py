"""What a URI says of the servers; and that a wrong one is refused without a word of what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection

from flask_sessionstatus import ConfigurationError
from flask_sessionstatus.stores import Limits, store_from_uri
from flask_sessionstatus.stores.redis import Address, connect

pytestmark = pytest.mark.core

GOOD: list[tuple[str, Any, Any, Any, Any]] = [
    ("redis://", [("localhost", 6379)], None, False, {}),
    ("redis://host", [("host", 6379)], None, False, {}),
    ("redis://host:7000/3", [("host", 7000)], None, False, {"db": 3}),
    ("redis://:pa%2Fss%40@host", [("host", 6379)], None, False, {"password": "pa/ss@"}),
    ("valkey://user:pw@[::1]:7000/", [("::1", 7000)], None, False, {"username": "user", "password": "pw"}),
    ("redis://h?socket_timeout=2.5", [("h", 6379)], None, False, {"socket_timeout": 2.5}),
    ("redis+sentinel://a,b:27000/main", [("a", 26379), ("b", 27000)], "main", False, {}),
    ("redis+sentinel://u:p@a:1,b:2/my%2Fmain/5", [("a", 1), ("b", 2)], "my/main", False, {"username": "u", "db": 5}),
    ("valkey+sentinel://a/main/", [("a", 26379)], "main", False, {}),
    ("redis+cluster://a:1,b", [("a", 1), ("b", 6379)], None, True, {}),
    ("valkey+cluster://:p@a:1/0", [("a", 1)], None, True, {"password": "p"}),
]


@pytest.mark.parametrize(("uri", "hosts", "service", "cluster", "settings"), GOOD, ids=[each[0] for each in GOOD])
def test_a_uri_says_where_and_how(uri: str, hosts: Any, service: Any, cluster: bool, settings: Any) -> None:
    address = connect(uri, {})
    assert (list(address.hosts), address.service, address.cluster) == (hosts, service, cluster)
    assert address.connection is Connection
    assert settings.items() <= address.settings.items()


@pytest.mark.parametrize("scheme", ["rediss", "valkeys", "rediss+sentinel", "valkeys+sentinel", "rediss+cluster"])
def test_a_scheme_with_an_s_means_tls(scheme: str) -> None:
    address = connect(f"{scheme}://host:1/{'main' if 'sentinel' in scheme else ''}?ssl_check_hostname=no", {})
    assert address.connection is SSLConnection
    assert address.settings["ssl_check_hostname"] is False
    if address.service is not None:
        assert isinstance(address.sentinel_at(("host", 1)), SSLConnection)


def test_a_unix_socket_has_a_path_and_perhaps_a_database() -> None:
    address = connect("unix://user:pw@/run/redis.sock?db=2", {})
    assert (address.hosts, address.connection) == ((), UnixDomainSocketConnection)
    connection = address.connection_to(None)
    assert (connection.path, connection.db, connection.username) == ("/run/redis.sock", 2, "user")


def test_the_credentials_are_the_servers_and_the_sentinels_have_their_own() -> None:
    address = connect("redis+sentinel://u:p@a/main", {"sentinel_kwargs": {"password": "s"}})
    assert (address.connection_to(("b", 1)).username, address.connection_to(("b", 1)).password) == ("u", "p")
    assert (address.sentinel_at(("a", 1)).username, address.sentinel_at(("a", 1)).password) == (None, "s")


def test_sentinels_may_do_without_the_tls_of_their_servers() -> None:
    address = connect("rediss+sentinel://a/main?ssl_ca_certs=x", {"sentinel_kwargs": {"ssl": False}})
    assert type(address.sentinel_at(("a", 1))) is Connection


def test_timeouts_are_short_and_nothing_is_repeated_unless_said_otherwise() -> None:
    connection = connect("redis://host", {}).connection_to(("host", 1))
    assert (connection.socket_connect_timeout, connection.socket_timeout) == (0.8, 0.8)
    assert connection.retry._retries == 0
    address = connect("redis://host", {"socket_timeout": 2, "max_connections": 3, "timeout": 0.5, "retry": None})
    assert (address.size, address.wait, address.settings["socket_timeout"]) == (3, 0.5, 2)
    assert address.connection_to(("host", 1)).retry._retries == 0


BAD = [
    *("", "redis", "//u:secret@host", "u:secret@host", "mysql://u:secret@host/0", "redis+other://u:secret@host"),
    *("unix+sentinel://u:secret@/x", "redis+cluster+sentinel://u:secret@host/main", "redis+://u:secret@"),
    *("redis://u:secret@host:port/0", "redis://u:secret@host:6379/x", "redis://u:secret@host:99999"),
    *("redis://u:secret@host:0", "redis://u:secret@[host", "redis://u:secret@a,b", "redis://u:secret@host/1/2"),
    *("redis://u:1/secret@host", "redis://u:secret/1@host", "redis://u:sec?secret@host", "redis://u:12#secret@host"),
    *("redis://u:secret@host/0#1", "redis://u:secret@host/²", "redis://u:secret@host?socket_timeout=secret"),
    *("redis://u:secret@host?db=secret", "redis://u:secret@host?protocol=9"),
    *("unix://u:secret@", "unix://u:secret@host/path"),
    *("redis+sentinel://u:secret@a:1,b:2", "redis+sentinel://u:secret@a/", "redis+sentinel://u:secret@/main"),
    *("redis+sentinel://u:secret@a,,b/main", "redis+sentinel://u:secret@a/main/x", "redis+sentinel://u:secret@a/m/1/2"),
    *("redis+cluster://u:secret@", "redis+cluster://u:secret@a/3", "redis+cluster://u:secret@a:x,b"),
    *("redis+cluster://u:secret@a,u:secret@b", "valkey+sentinel://u:secret@a"),
]


@pytest.mark.parametrize("uri", BAD)
def test_a_uri_that_cannot_be_one_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        store_from_uri(uri, Limits())
    assert "SESSIONSTATUS_STORAGE_URI" in str(refused.value) or "the URI's" in str(refused.value)
    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


WRONG_OPTIONS: list[dict[str, Any]] = [
    *({"no_such_option": "secret"}, {"max_connections": 0}, {"max_connections": "secret"}, {"timeout": -1}),
    *({"socket_timeout": None}, {"socket_timeout": "secret"}, {"socket_connect_timeout": 0}, {"protocol": 7}),
    *({"sentinel_kwargs": "secret"}, {"sentinel_kwargs": {"no_such_option": "secret"}}),
    *({"socket_timeout": True}, {"timeout": float("inf")}, {"max_connections": 0.5}, {"encoding": "secret"}),
    *({"db": "secret"}, {"db": -1}, {"db": True}, {"username": 5}, {"password": 5}, {"client_name": 5}),
    *({"health_check_interval": "secret"}, {"socket_keepalive": "secret"}, {"socket_read_size": 0}),
    *({"credential_provider": "secret"}, {"ssl_ca_certs": "secret"}, {"sentinel_kwargs": {"password": 5}}),
    *({"sentinel_kwargs": {"db": "secret"}}, {"sentinel_kwargs": {1: "secret"}}),
    {"credential_provider": object(), "password": "secret"},
]


@pytest.mark.parametrize("options", WRONG_OPTIONS, ids=lambda options: next(iter(options)))
def test_an_option_that_cannot_be_one_is_refused_and_its_value_not_repeated(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="SESSIONSTATUS_STORAGE_OPTIONS") as refused:
        store_from_uri("redis+sentinel://host/main", Limits(), options=options)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("uri", ["redis://host", "redis+sentinel://host/main", "redis+cluster://host"])
def test_the_one_option_that_is_wrong_is_named(uri: str) -> None:
    for name in ("socket_timeout", "socket_connect_timeout", "timeout", "max_connections"):
        with pytest.raises(ConfigurationError, match=rf"URI's\): {name} must be a .*number above 0[^_]*\.$"):
            connect(uri, {name: "2"})
    with pytest.raises(ConfigurationError, match="sentinel_kwargs' socket_timeout must be a number above 0"):
        connect(uri, {"sentinel_kwargs": {"socket_timeout": "2"}})


@pytest.mark.parametrize("name", ["decode_responses", "host", "port"])
def test_an_option_that_would_be_ignored_is_refused(name: str) -> None:
    for options in ({name: "secret"}, {"sentinel_kwargs": {name: "secret"}}):
        with pytest.raises(ConfigurationError, match=rf"{name} cannot be set: ") as refused:
            connect("redis+sentinel://host/main", options)
        assert "secret" not in str(refused.value)


def test_an_option_behind_the_question_mark_is_judged_alike() -> None:
    for query in ("decode_responses=true", "timeout=0", "socket_timeout=-1", "max_connections=0"):
        with pytest.raises(ConfigurationError, match=rf"URI's\): {query.partition('=')[0]} ") as refused:
            connect(f"redis://u:secret@host?{query}", {})
        assert "secret" not in str(refused.value)


def test_a_cluster_has_no_database_whoever_names_it() -> None:
    assert connect("redis+cluster://host?db=0", {"db": 0}).cluster
    for uri, options in (("redis+cluster://host?db=3", {}), ("redis+cluster://host", {"db": 3})):
        with pytest.raises(ConfigurationError, match="db must be 0"):
            connect(uri, options)


def test_options_of_every_kind_that_can_be_right_are_taken(tmp_path: Path) -> None:
    options = {
        **{"db": 3, "username": "u", "password": b"p", "client_name": None, "encoding": "utf-8", "protocol": 3},
        **{"socket_keepalive": False, "health_check_interval": 2.5, "socket_read_size": 4096, "sentinel_kwargs": None},
        **{"ssl_ca_certs": tmp_path, "ssl_check_hostname": False, "max_connections": 1},
    }
    connection = connect("rediss://host", options).connection_to(("host", 1))
    assert (connection.db, connection.username, connection.health_check_interval) == (3, "u", 2.5)


@pytest.mark.parametrize("name", ["ssl", "ssl_ca_certs"])
def test_who_wants_tls_is_told_where_it_is_said(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"no option '{name}': TLS is rediss:// in SESSIONSTATUS_STORAGE_URI"):
        connect("redis://host", {name: True if name == "ssl" else "x"})
    with pytest.raises(ConfigurationError, match=r"no option 'ssl_other'\.$"):
        connect("rediss://host", {"ssl_other": True})


@pytest.mark.parametrize("path", ["0/mymaster", "main/x", "main/1/2", "main/²"])
def test_the_end_of_a_uri_of_sentinels_is_the_service_and_a_number(path: str) -> None:
    with pytest.raises(ConfigurationError, match="the service and, if you like, the number of a database: …/service/0"):
        connect(f"redis+sentinel://host/{path}", {})


@pytest.mark.parametrize("uri", ["memory://x", "memory:///", "memory://?db=1"])
def test_behind_memory_there_is_nothing(uri: str) -> None:
    with pytest.raises(ConfigurationError, match=r"must be memory:// with nothing behind it\.$"):
        store_from_uri(uri, Limits())


def test_the_case_of_a_scheme_is_no_matter() -> None:
    assert connect("RediSS+Sentinel://host/Main", {}).connection is SSLConnection
    assert connect("RediSS+Sentinel://host/Main", {}).service == "Main"


def test_what_is_no_option_is_named() -> None:
    with pytest.raises(ConfigurationError, match="'no_such_option'"):
        connect("redis://host", {"no_such_option": 1})


def test_an_address_shows_no_secret() -> None:
    address: Address = connect("redis+sentinel://user:secret@a/main", {"sentinel_kwargs": {"password": "secret"}})
    assert "secret" not in repr(address)
    assert "main" in repr(address)
