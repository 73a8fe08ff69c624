"""What can be said of a connection's options before a server has judged them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

from ...errors import ConfigurationError

Check = tuple[Callable[[Any], bool], str]


def wrong(said: str) -> ConfigurationError:
    """The error of an option; `said` never holds its value, which may be a secret."""
    return ConfigurationError(f"SESSIONSTATUS_STORAGE_OPTIONS (or the URI's): {said}.")


def check(options: Mapping[str, Any], of: str = "") -> None:
    """Raise ConfigurationError for the first option that no server could take; `of` says whose they are."""
    for name, value in options.items():
        if name in REFUSED:
            raise wrong(f"{of}{name} cannot be set: {REFUSED[name]}")
        if name in NUMBERS:
            if not _is_number(value) or value <= 0:
                raise wrong(f"{of}{name} must be a number above 0, in seconds")
        elif name in CHECKS and value is not None:
            fits, must = CHECKS[name]
            if not fits(value):
                raise wrong(f"{of}{name} must be {must}")


def no_such(name: str, secure: bool) -> ConfigurationError:
    """The error of an option that no such connection knows; `secure` is whether it is over TLS."""
    of_tls = name == "ssl" or (name.startswith("ssl_") and not secure)
    hint = ": TLS is rediss:// in SESSIONSTATUS_STORAGE_URI" if of_tls else ""
    return wrong(f"there is no option {name!r}{hint}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_text(value: object) -> bool:
    return isinstance(value, (str, bytes))


def _is_file(value: object) -> bool:
    return isinstance(value, (str, bytes, os.PathLike))


REFUSED = {
    "decode_responses": "what is stored is read as bytes",
    "host": "it stands in SESSIONSTATUS_STORAGE_URI",
    "port": "it stands in SESSIONSTATUS_STORAGE_URI",
}
NUMBERS = ("timeout", "socket_timeout", "socket_connect_timeout")
TEXT: Check = (_is_text, "a text, in quotes also where it is a number")
FILE: Check = (_is_file, "a path")
FLAG: Check = (lambda value: isinstance(value, bool), "true or false")
CHECKS: dict[str, Check] = {
    **dict.fromkeys(("username", "password", "client_name", "ssl_password", "ssl_ca_data"), TEXT),
    **dict.fromkeys(("ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "ssl_ca_path"), FILE),
    **dict.fromkeys(("socket_keepalive", "ssl_check_hostname"), FLAG),
    "encoding": (lambda value: value in ("utf-8", "UTF-8", "utf8"), "utf-8"),
    "protocol": (lambda value: value in (2, 3), "2 or 3"),
    "db": (_is_count, "a whole number, 0 or more"),
    "max_connections": (lambda value: _is_count(value, 1), "a whole number above 0"),
    "socket_read_size": (lambda value: _is_count(value, 1), "a whole number above 0"),
    "health_check_interval": (lambda value: _is_number(value) and value >= 0, "a number of seconds, 0 or more"),
    "credential_provider": (lambda value: hasattr(value, "get_credentials"), "a CredentialProvider of redis-py"),
    "sentinel_kwargs": (lambda value: isinstance(value, Mapping), "a mapping of options"),
}
"""Of each option that has a type; None is as good as leaving it out."""
