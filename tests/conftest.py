from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import redis
from harness import Clock, Kind
from servers import RedisServer, executable, newest
from topologies import AclGroup, ClusterGroup, Group, SentinelGroup, SocketGroup, TlsGroup

from flask_sessionstatus.stores.base import Limits, Store

# redis-py looks its version up among the installed packages for each connection that is made: here thousands.
redis.utils.get_lib_version = cache(redis.utils.get_lib_version)

TESTS = Path(__file__).parent
KINDS = ("memory", "redis-6.2", "redis-7", "fallback", "fallback-away", "acl", "cluster", "sentinel")
GROUPS: Mapping[str, Callable[[], Group]] = {
    "acl": AclGroup,
    "cluster": ClusterGroup,
    "sentinel": SentinelGroup,
    "socket": SocketGroup,
    "tls": TlsGroup,
}
ON_SENTINEL = ("test_contract_events", "test_contract_places")
"""Behind the Sentinels is the server of the other kinds: a part of the contract is enough."""

ONCE = ("test_contract_existing", "test_contract_topologies", "test_contract_work", "test_http_existing")
ONCE_KINDS = {*GROUPS, "fallback", "fallback-away"}
"""Modules and kinds of stores whose tests need not run on every Python."""

ALONE = ("faults", "http")
"""Where what is marked `alone` may lie: see tox.ini."""


def _texts(params: Mapping[str, object]) -> set[str]:
    return {value for value in params.values() if isinstance(value, str)}


def _is_repeated_on_sentinel(item: pytest.Item) -> bool:
    params = getattr(item, "callspec", None)
    return params is not None and params.params.get("kind") == "sentinel" and item.path.stem not in ON_SENTINEL


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not _is_repeated_on_sentinel(item)]
    # Apart from the contract, what a process does without its Redis has tests of its own.
    items[:] = [item for item in items if "[fallback-away" not in item.name or item.path.parent.name == "contract"]
    for item in items:
        params = getattr(item, "callspec", None)
        if item.path.stem in ONCE or (params and ONCE_KINDS & _texts(params.params)):
            item.add_marker(pytest.mark.once)
        folder = item.path.parent
        if folder == TESTS or folder.name in ("contract", "http"):
            item.add_marker(pytest.mark.core)
        if item.get_closest_marker("alone") and folder.name not in ALONE:
            raise pytest.UsageError(f"{item.nodeid} would not be run: tox looks for what is `alone` in {ALONE}.")


@pytest.fixture(scope="session")
def redis_url() -> Iterator[Callable[[str], str]]:
    """The URL of a running server by its name; it is started when first asked for."""
    servers: dict[str, RedisServer] = {}

    def url(name: str) -> str:
        path = newest() if name == "newest" else executable(name)
        if path not in servers:
            servers[path] = RedisServer(path)
            servers[path].start()
        return servers[path].url

    yield url
    for server in servers.values():
        server.remove()


@pytest.fixture(scope="session")
def empty_redis(redis_url: Callable[[str], str]) -> Callable[[], str]:
    """Empties the newest server, and gives its URL."""

    def emptied() -> str:
        url = redis_url("newest")
        with redis.Redis.from_url(url) as client:
            client.flushall()
        return url

    return emptied


@pytest.fixture(scope="session")
def group(redis_url: Callable[[str], str]) -> Iterator[Callable[[str], Any]]:
    """The servers of a topology by its name; they are started when first asked for."""
    groups: dict[str, Group] = {}

    def started(name: str) -> Group:
        redis_url("newest")
        if name not in groups:
            groups[name] = GROUPS[name]()
        return groups[name]

    yield started
    for each in groups.values():
        each.remove()


def kind_of_store(name: str, redis_url: Callable[[str], str], group: Callable[[str], Any]) -> Kind:
    if name == "memory":
        return Kind(name)
    if name.startswith("fallback"):
        return Kind(name, redis_url("newest") if name == "fallback" else None, fallback=True)
    if name in GROUPS:
        return Kind(name, group(name).uri, group(name).client())
    return Kind(name, redis_url(name))


@pytest.fixture(params=KINDS)
def kind(
    request: pytest.FixtureRequest, redis_url: Callable[[str], str], group: Callable[[str], Any]
) -> Iterator[Kind]:
    """A kind of store; at the end no key of it may be without an expiry."""
    kind = kind_of_store(request.param, redis_url, group)
    yield kind
    try:
        assert kind.keys_without_expiry() == []
    finally:
        kind.close()


@pytest.fixture
def redis_kind(redis_url: Callable[[str], str]) -> Iterator[Kind]:
    """The newest Redis, where only Redis matters."""
    kind = Kind("redis", redis_url("newest"))
    yield kind
    kind.close()


@pytest.fixture
def clock(kind: Kind) -> Clock:
    return kind.clock


@pytest.fixture
def store(kind: Kind) -> Store:
    return kind.make()


@pytest.fixture
def make_store(kind: Kind) -> Callable[[Limits], Store]:
    """A store of this kind with other limits."""
    return kind.make
