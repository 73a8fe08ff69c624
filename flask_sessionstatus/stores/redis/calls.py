"""The store's scripts and commands: one script a step, errors in this package's words."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, NamedTuple

import redis

from ...errors import RecordUnreadable, StoreUnavailable
from .. import bounds
from ..base import Counting, StoreAway
from .cluster import Unsettled
from .node import Argument, Command, Crowded
from .replies import DEMOTED, REFUSALS, UNREADABLE, UNWILLING, code_of
from .servers import KeyedCommand, Servers

log = logging.getLogger("flask_sessionstatus")

ALONE = "-- Alone:"
CLOCK = "redis.call('TIME')"
SCRIPTS = (
    *("status", "begin", "claim", "append", "beat", "cancel", "session", "update", "turns", "delete", "touch", "tally"),
    "refill",
    *("events", "tasks", "result", "traceback", "bound", "lives", "reserve", "places", "forget", "count"),
    *("restore", "restore_task", "bury"),
)
ONE_KEY = ("status",)
"""Scripts that touch no key beside the one that they are given."""


BOUNDS = "".join(f"local {name} = {value}\n" for name, value in vars(bounds).items() if name.isupper())


class Scripted(NamedTuple):
    """One call of a script, to go with others in one round trip."""

    script: str
    key: str
    args: Sequence[Argument] = ()


class Keyed(NamedTuple):
    """A command that goes to whoever serves a key, to go with others in one round trip; its error is left as it is."""

    key: str
    command: Command


Step = Command | Scripted | Keyed
"""A command with its arguments, the key first, a script's call, or a command that has its key elsewhere."""


class Script:
    """A script's text and hash. `clock` is the Lua expression for the server's time as {seconds, microseconds}."""

    def __init__(self, name: str, clock: str) -> None:
        own, common = _texts()[name], BOUNDS + _texts()["common"]
        self.text = (own if own.startswith(ALONE) else common + own).replace(CLOCK, clock)
        self.sha = sha1(self.text.encode(), usedforsecurity=False).hexdigest()


@cache
def _texts() -> Mapping[str, str]:
    """The texts of all scripts by name, read at once: later the files may be those of another version."""
    folder = files(__package__) / "lua"
    return {name: (folder / f"{name}.lua").read_text(encoding="utf-8") for name in ("common", *SCRIPTS)}


class Scripts(dict[str, Script]):
    """The scripts by name, each made when it is first asked for."""

    def __init__(self, clock: str = CLOCK) -> None:
        super().__init__()
        self._clock = clock
        _texts()

    def __missing__(self, name: str) -> Script:
        script = self[name] = Script(name, self._clock)
        return script


class Calls:
    """Commands and scripts; every failure to reach a server comes out as StoreUnavailable."""

    def __init__(self, servers: Servers, counting: Counting, clock: str) -> None:
        self.servers = servers
        self._counting = counting
        self._scripts = Scripts(clock)

    def reach(self) -> None:
        """Return if every server answers. Raises StoreUnavailable."""
        try:
            self.servers.ping()
        except (redis.RedisError, OSError) as error:
            raise self.translated(error) from error

    def script(self, name: str, key: str, *args: Argument) -> Any:
        """The reply of one script. Raises StoreUnavailable and RecordUnreadable."""
        known, keys = self._scripts[name], self._keys(name, key)
        try:
            try:
                return self.servers.execute(key, "EVALSHA", known.sha, *keys, *args)
            except redis.exceptions.NoScriptError:
                return self.servers.execute(key, "EVAL", known.text, *keys, *args)
        except (redis.RedisError, OSError) as error:
            raise self.translated(error) from error

    def _keys(self, script: str, key: str) -> Sequence[Argument]:
        """The keys of a script's call, their count first."""
        return (2, key, f"{key}:never") if self.servers.guarded and script not in ONE_KEY else (1, key)

    def batch(self, *steps: Step) -> list[Any]:
        """The replies of commands and scripts, each for itself, in one round trip; errors stand in their places."""
        if len(steps) == 1 and isinstance(steps[0], Scripted):
            try:
                return [self.script(steps[0].script, steps[0].key, *steps[0].args)]
            except (RecordUnreadable, StoreUnavailable) as error:
                return [error]
        if not steps:
            return []
        replies = self.servers.pipeline([self._command(step, by_hash=True) for step in steps])
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, redis.exceptions.NoScriptError)]
        if unknown:
            again = self.servers.pipeline([self._command(steps[i], by_hash=False) for i in unknown])
            for i, reply in zip(unknown, again):
                replies[i] = reply
        return [
            self.translated(reply) if isinstance(reply, Exception) and not isinstance(step, Keyed) else reply
            for step, reply in zip(steps, replies)
        ]

    def _command(self, step: Step, *, by_hash: bool) -> KeyedCommand:
        if isinstance(step, Keyed):
            return step
        if not isinstance(step, Scripted):
            return str(step[1]) if len(step) > 1 else "", step
        known = self._scripts[step.script]
        call = ("EVALSHA", known.sha) if by_hash else ("EVAL", known.text)
        return step.key, (*call, *self._keys(step.script, step.key), *step.args)

    def command(self, *command: Argument) -> Any:
        """The reply of one command. Raises as script does."""
        return self.together(command)[0]

    def together(self, *steps: Step) -> list[Any]:
        """As batch. Raises as script does, for the first that failed."""
        replies = self.batch(*steps)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def translated(self, error: Exception) -> Exception:
        """What a server's or a connection's error is in this package's words."""
        code = code_of(error)
        if code in UNREADABLE:
            self._counting.add("unreadable")
            log.error("A stored record cannot be read: %s", error)
            return RecordUnreadable("A stored record cannot be read.")
        if isinstance(error, Crowded):
            return StoreUnavailable("Too many wait for the store here. Try again in a moment.")
        if isinstance(error, redis.ResponseError) and code not in (*DEMOTED, *UNWILLING):
            log.error("The store refused: %s: %s", code or type(error).__name__, error)
            return StoreUnavailable("The store refused. Try again in a moment.")
        sentence = "The store is unavailable. Try again in a moment."
        refused = code in REFUSALS or code_of(error.__cause__ or error) in REFUSALS
        kind = StoreUnavailable if refused or isinstance(error, Unsettled) else StoreAway
        translated = kind(sentence)
        translated.__cause__ = error
        return translated
