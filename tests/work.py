"""How much the scripts of a store go through: counted inside of them, at each command that they call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

from flask_sessionstatus.stores.redis import RedisStore
from flask_sessionstatus.stores.redis.calls import CLOCK, SCRIPTS, Script
from flask_sessionstatus.stores.redis.node import Argument
from flask_sessionstatus.stores.redis.servers import KeyedCommand, Servers

MOST = "test:work:most"
CALLS = "test:work:calls"

# In front of a script: `redis` with a `call` that counts. The elements of a call are those of its reply (a field and
# its value, or a member and its score, are one), or, where it removes, those that are gone afterwards.
BEFORE = """
local plain, most, calls, total, elements = redis, {}, {}, 0, 0
local SIZE = {list = 'LLEN', hash = 'HLEN', zset = 'ZCARD', stream = 'XLEN'}
local function size(key)
  local kind = plain.call('TYPE', key)['ok']
  return SIZE[kind] and plain.call(SIZE[kind], key) or 1
end
local function counted(name, key, ...)
  local gone, before = 0, 0
  if name == 'DEL' then
    for _, each in ipairs({key, ...}) do gone = math.max(gone, size(each)) end
  elseif name == 'LTRIM' or name == 'XADD' then before = size(key) end
  local reply = key == nil and plain.call(name) or key ~= nil and plain.call(name, key, ...)
  if name == 'LTRIM' then gone = before - size(key)
  elseif name == 'XADD' then gone = math.max(0, before + 1 - size(key)) end
  local count = math.max(gone, select('#', ...), 1)
  if type(reply) == 'table' and not reply['ok'] then
    local paired = name == 'HGETALL'
    for _, each in ipairs({...}) do paired = paired or each == 'WITHSCORES' end
    count = math.max(count, paired and #reply / 2 or #reply)
  end
  most[name] = math.max(most[name] or 0, count)
  calls[name] = (calls[name] or 0) + 1
  total, elements = total + 1, elements + count
  return reply
end
local redis = {call = counted, replicate_commands = plain.replicate_commands}
local function main()
"""

AFTER = """
end
local reply = main()
most['(commands)'], most['(elements)'] = total, elements
for name, count in pairs(most) do
  local field = 'SCRIPT ' .. name
  if count > tonumber(plain.call('HGET', 'MOST', field) or 0) then plain.call('HSET', 'MOST', field, count) end
end
for name, count in pairs(calls) do plain.call('HINCRBY', 'CALLS', name, count) end
return reply
"""


class Counted(Script):
    """A script that counts what it goes through."""

    def __init__(self, name: str, clock: str) -> None:
        super().__init__(name, CLOCK)
        after = AFTER.replace("SCRIPT", name).replace("MOST", MOST).replace("CALLS", CALLS)
        self.text = (BEFORE + self.text + after).replace(CLOCK, clock)
        self.sha = redis.Redis().register_script(self.text).sha


class Watched(Servers):
    """Servers that note what is sent to them: how many arguments a script got, and the commands beside scripts.

    They can be `away`.
    """

    def __init__(self, servers: Servers, names: dict[str, str]) -> None:
        self._servers = servers
        self._names = names
        self.arguments: dict[str, int] = {}
        self.replies: dict[str, int] = {}
        self.calls: dict[str, int] = {}
        self.longest_pipeline = 0
        self.away = False

    def _note(self, command: Sequence[Any], reply: Any) -> None:
        name, args = str(command[0]), command[1:]
        if name in ("EVAL", "EVALSHA"):
            name = self._names[str(args[0])]
            args = args[2 + int(args[1]) :]
        else:
            self.calls[name] = self.calls.get(name, 0) + 1
            self.replies[name] = max(self.replies.get(name, 0), len(reply) if isinstance(reply, list) else 1)
        self.arguments[name] = max(self.arguments.get(name, 0), len(args))

    def _reach(self) -> None:
        if self.away:
            raise redis.ConnectionError("away")

    def execute(self, key: str, *command: Argument) -> Any:
        self._reach()
        reply = self._servers.execute(key, *command)
        self._note(command, reply)
        return reply

    def pipeline(self, commands: Sequence[KeyedCommand]) -> list[Any]:
        if self.away:
            return [redis.ConnectionError("away")] * len(commands)
        replies = self._servers.pipeline(commands)
        self.longest_pipeline = max(self.longest_pipeline, len(commands))
        for (_, command), reply in zip(commands, replies):
            if not isinstance(reply, Exception):
                self._note(command, reply)
        return replies

    def subscriber(self, timeout: float) -> Any:
        return self._servers.subscriber(timeout)

    def confirm(self) -> None:
        self._servers.confirm()

    def ping(self) -> None:
        self._reach()
        self._servers.ping()

    def primaries(self) -> Any:
        return self._servers.primaries()

    def close(self) -> None:
        self._servers.close()


def watch(store: RedisStore, clock: str = CLOCK) -> Watched:
    """Let a store's scripts count from now on."""
    counted = {name: Counted(name, clock) for name in SCRIPTS}
    names = {text: name for name, script in counted.items() for text in (script.sha, script.text)}
    watched = Watched(store._calls.servers, names)
    store._calls._scripts = dict(counted)
    store._calls.servers = watched
    return watched


def most(client: redis.Redis) -> dict[tuple[str, str], int]:
    """The most elements that a call had, by script and command; `(commands)` and `(elements)` are those of one run."""
    found: Any = client.hgetall(MOST)
    return {tuple(name.decode().split(" ")): int(float(count)) for name, count in found.items()}  # type: ignore[misc]
