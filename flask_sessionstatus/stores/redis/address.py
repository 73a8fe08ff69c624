"""Where the servers of a store are, as its URI says, and what a connection to one of them is made with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, Connection, SSLConnection, parse_url
from redis.retry import Retry

from ...concurrency import is_cooperative
from ...errors import ConfigurationError
from . import options as checks

Host = tuple[str, int]

TIMEOUT = 0.8
SENTINEL_TIMEOUT = 0.4
"""Seconds: Sentinels do next to nothing, and one that hangs must not use up the time of who asks."""
WAIT = 1.0
CONNECTIONS = 16
COOPERATIVE_CONNECTIONS = 2
"""Thousands of greenlets share one interpreter: two connections keep it busy, more only wait for it."""

REDIS_PORT, SENTINEL_PORT = 6379, 26379
SPELLINGS = {"valkey": "redis", "valkeys": "rediss"}
SCHEMES = ("redis", "rediss", "unix")
TOPOLOGIES = ("sentinel", "cluster")
KNOWN = (
    "must begin with memory://, redis://, rediss:// or unix://, with redis+sentinel:// or redis+cluster:// "
    "(rediss+ for TLS), or with valkey in place of redis"
)


@dataclass(frozen=True)
class Address:
    """How to reach the servers of a store.

    `hosts` is the server, the Sentinels, or some nodes of a Cluster; empty for a Unix socket. `service` is what the
    Sentinels call the primary. `size` is how many connections a server gets, `wait` how long one is waited for (s).
    """

    connection: type[AbstractConnection]
    hosts: tuple[Host, ...] = ()
    service: str | None = None
    cluster: bool = False
    size: int = CONNECTIONS
    wait: float = WAIT
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    sentinel: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def connection_to(self, host: Host | None, **settings: Any) -> AbstractConnection:
        """A connection that is not connected yet; without a host: over the Unix socket."""
        where = {} if host is None else {"host": host[0], "port": host[1]}
        return self.connection(**{**self.settings, **where, **settings})

    def connected_to(self, host: Host | None, **settings: Any) -> AbstractConnection:
        """A connection that stands. Raises redis.RedisError and OSError."""
        connection = self.connection_to(host, **settings)
        connection.connect()
        return connection

    def sentinel_at(self, host: Host) -> AbstractConnection:
        """A connection to a Sentinel, not connected yet."""
        settings = dict(self.sentinel)
        secure = settings.pop("ssl", issubclass(self.connection, SSLConnection))
        kind: type[AbstractConnection] = SSLConnection if secure else Connection
        if not secure:
            settings = {name: value for name, value in settings.items() if not name.startswith("ssl_")}
        return kind(**{**settings, "host": host[0], "port": host[1]})


def connect(uri: str, options: Mapping[str, Any]) -> Address:
    """How to connect to what a URI names; nothing is connected yet.

    `options` are those of a connection of redis-py, and `max_connections` and `timeout` (s) of the pool of each server,
    and `sentinel_kwargs`, the options of connections to Sentinels. Retries of the client's own are off.

    Raises ConfigurationError; its message holds no part of the URI.
    """
    try:
        address = _parsed(uri, options)
    except ConfigurationError:
        raise
    except ValueError as error:
        raise ConfigurationError(f"SESSIONSTATUS_STORAGE_URI {error}.") from None
    try:
        # Made and thrown away: an option that no connection knows shows here, not at the first request.
        address.connection_to(address.hosts[0] if address.hosts else None)
        if address.service is not None:
            address.sentinel_at(address.hosts[0])
    except (TypeError, ValueError, AttributeError, redis.RedisError) as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is None:
            raise checks.wrong("an option has a wrong value") from None
        raise checks.no_such(unknown[1], issubclass(address.connection, SSLConnection)) from None
    return address


def _parsed(uri: str, options: Mapping[str, Any]) -> Address:
    scheme, separator, rest = uri.partition("://")
    base, plus, topology = scheme.lower().partition("+")
    base = SPELLINGS.get(base, base)
    if not separator or base not in SCHEMES or (plus and (base == "unix" or topology not in TOPOLOGIES)):
        raise ValueError(KNOWN)
    credentials, names, path, query = _split(rest)
    if base == "unix":
        if not path or names:
            raise ValueError("must name a socket: unix:///path/of/the.sock")
        return _address(_settings(base, credentials, "", path, query), options)
    hosts = _hosts(names or ("" if topology else "localhost"), SENTINEL_PORT if topology == "sentinel" else REDIS_PORT)
    service, database = _service_and_database(topology, path)
    if not topology and len(hosts) > 1:
        raise ValueError("has several hosts: that needs redis+sentinel:// or redis+cluster://")
    settings = _settings(base, credentials, "host", f"/{database}", query)
    return _address(settings, options, hosts=hosts, service=service, cluster=topology == "cluster")


def _split(rest: str) -> tuple[str, str, str, str]:
    """The credentials, the hosts, the path and the query of what follows ://."""
    parts = re.fullmatch(r"(?:([^/?#@]*)@)?([^/?#@]*)([^?#@]*)([^#@]*)", rest, re.DOTALL)
    if parts is None:
        raise ValueError("must have the special characters of user, password and path percent-encoded")
    credentials, hosts, path, query = parts.groups(default="")
    return credentials, hosts, path, query


def _hosts(names: str, default_port: int) -> tuple[Host, ...]:
    hosts: list[Host] = []
    for name in names.split(","):
        try:
            parts = urlsplit(f"//{name}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or port == 0:
            raise ValueError("must name each host as host or host:port")
        hosts.append((host, default_port if port is None else port))
    return tuple(hosts)


def _service_and_database(topology: str, path: str) -> tuple[str | None, str]:
    parts = path.strip("/").split("/")
    service = unquote(parts.pop(0)) if topology == "sentinel" else None
    database = parts.pop(0) if parts else ""
    if service == "":
        raise ValueError("must name the service: redis+sentinel://host:port,host:port/service")
    if topology == "sentinel" and (parts or not _is_database(database)):
        raise ValueError("must end with the service and, if you like, the number of a database: …/service/0")
    if parts or not _is_database(database):
        raise ValueError("must end with the number of a database, or without one")
    if topology == "cluster" and database.strip("0"):
        raise ValueError("must name no database: a Cluster has none but 0")
    return service, database


def _is_database(text: str) -> bool:
    return not text or (text.isascii() and text.isdecimal())


def _settings(base: str, credentials: str, host: str, path: str, query: str) -> dict[str, Any]:
    try:
        settings = dict(parse_url(f"{base}://{credentials}@{host}{path}{query}"))
    except ValueError:
        raise ValueError("has an option after the ? with a wrong value") from None
    settings.pop("host", None)
    settings.pop("port", None)
    return settings


def _address(parsed: dict[str, Any], options: Mapping[str, Any], **topology: Any) -> Address:
    connection = parsed.pop("connection_class", Connection)
    settings = {"socket_connect_timeout": TIMEOUT, "socket_timeout": TIMEOUT, **parsed, **options}
    checks.check(settings)
    if topology.get("cluster") and settings.get("db"):
        raise checks.wrong("db must be 0: a Cluster has no other")
    size = settings.pop("max_connections", None) or (COOPERATIVE_CONNECTIONS if is_cooperative() else CONNECTIONS)
    wait = settings.pop("timeout", WAIT)
    sentinel_kwargs = settings.pop("sentinel_kwargs", None) or {}
    checks.check(sentinel_kwargs, "sentinel_kwargs' ")
    fixed = {"decode_responses": False, "retry": Retry(NoBackoff(), 0)}
    tls = {name: value for name, value in settings.items() if name.startswith("ssl_")}
    short = {"socket_connect_timeout": SENTINEL_TIMEOUT, "socket_timeout": SENTINEL_TIMEOUT}
    return Address(
        connection,
        size=size,
        wait=wait,
        settings={**settings, **fixed},
        sentinel={**short, **tls, **sentinel_kwargs, **fixed},
        **topology,
    )
