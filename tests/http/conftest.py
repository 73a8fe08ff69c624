from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import Kind
from hosts import Host, MakeHost, Recording

from flask_sessionstatus import state
from flask_sessionstatus.stores import Limits


@pytest.fixture(params=["memory", "redis"])
def kind(request: pytest.FixtureRequest, redis_url: Callable[[str], str]) -> Iterator[Kind]:
    kind = Kind(request.param, None if request.param == "memory" else redis_url("newest"))
    yield kind
    kind.close()


@pytest.fixture(params=["flask", "smorest"])
def mode(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def hosts() -> dict[object, Host]:
    """Hosts that are used again: making one costs more than a test. Each test gets it with a new store and engine."""
    return {}


@pytest.fixture
def make_host(mode: str, kind: Kind, monkeypatch: pytest.MonkeyPatch, hosts: dict[object, Host]) -> Iterator[MakeHost]:
    used: list[Host] = []

    def clocked(uri: str, limits: Limits, *, index_everyone: bool, **options: Any) -> Recording:
        extra = {"index_everyone": index_everyone} if kind.is_redis else {}
        return Recording(kind.make(limits, **extra))

    monkeypatch.setattr(state, "store_from_uri", clocked)

    def make(anonymous: bool = False, fresh: bool = False, **config: Any) -> Host:
        known = mode, anonymous, repr(sorted(config.items()))
        host = None if fresh else hosts.get(known)
        if host is None:
            settings = {f"SESSIONSTATUS_{name.upper()}": value for name, value in config.items()}
            host = Host(mode, kind, settings, anonymous)
            if not fresh:
                hosts[known] = host
        host.reset(kind)
        used.append(host)
        return host

    yield make
    for host in used:
        host.close()


@pytest.fixture
def host(make_host: MakeHost) -> Host:
    return make_host()
