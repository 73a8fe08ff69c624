"""A chat back end as other programs are: it streams its answers into Redis under its own keys, and knows nothing of
this package. As a process of its own it does what it is told on its standard input, a JSON line each."""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime, timezone
from typing import Any

import redis
from redis.cluster import ClusterNode, RedisCluster


class Backend:
    """What such a program does, in its own words."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def emit(
        self, conversation_id: str, run_id: str, type: str, payload: dict[str, Any] | None = None, maxlen: int = 1000
    ) -> str:
        fields = {
            "type": type,
            "conversation_id": conversation_id,
            "run_id": run_id,
            "created_at": datetime.now(timezone.utc).isoformat(),
        }
        for name, value in (payload or {}).items():
            if isinstance(value, (list, dict)):
                fields[f"{name}_json"] = json.dumps(value)
            else:
                fields[name] = str(value)
        key = f"chat:stream:{conversation_id}:{run_id}"
        entry_id = self.client.xadd(key, fields, maxlen=maxlen, approximate=False)
        self.client.expire(key, 900)
        return str(entry_id.decode())

    def set_status(self, conversation_id: str, run_id: str, status: str) -> None:
        self.client.set(f"task:status:{conversation_id}:{run_id}", status, ex=600)

    def is_cancelled(self, conversation_id: str, run_id: str) -> bool:
        return bool(self.client.get(f"cancel:{conversation_id}:{run_id}") == b"true")

    def queue(self, conversation_id: str, run_id: str) -> str:
        self.set_status(conversation_id, run_id, "queued")
        return self.emit(conversation_id, run_id, "queued")

    def start(self, conversation_id: str, run_id: str) -> str:
        self.set_status(conversation_id, run_id, "running")
        return self.emit(conversation_id, run_id, "start")

    def chunk(
        self, conversation_id: str, run_id: str, content: str | None, maxlen: int = 1000, **more: list[Any] | None
    ) -> str:
        payload = {"content": content, "citations": [], "tool_calls": [], **more}
        return self.emit(conversation_id, run_id, "chunk", payload, maxlen)

    def end(self, conversation_id: str, run_id: str, status: str = "completed", message: str | None = None) -> str:
        self.set_status(conversation_id, run_id, status)
        return self.emit(conversation_id, run_id, "end", {"status": status, "message": message})

    def answer(self, conversation_id: str, run_id: str, words: int, pause: float = 0.0) -> str:
        """A whole answer; it stops when it is asked to."""
        self.queue(conversation_id, run_id)
        self.start(conversation_id, run_id)
        for number in range(words):
            if self.is_cancelled(conversation_id, run_id):
                return self.end(conversation_id, run_id, "cancelled", "Stopped by the user.")
            self.chunk(conversation_id, run_id, f"word{number} ")
            time.sleep(pause)
        return self.end(conversation_id, run_id)

    def fill(self, count: int, first: int = 0) -> int:
        """Many conversations, each with an answer."""
        with self.client.pipeline(False) as pipe:
            for number in range(first, first + count):
                key = f"chat:stream:conversation-{number}:run-{number}"
                pipe.xadd(key, {"type": "start", "conversation_id": f"conversation-{number}"})
                pipe.expire(key, 900)
                if number % 1000 == 999:
                    pipe.execute()
            pipe.execute()
        return count

    def delete(self, conversation_id: str, run_id: str) -> None:
        self.client.delete(f"chat:stream:{conversation_id}:{run_id}")

    def expire(self, conversation_id: str, run_id: str, ms: int) -> None:
        self.client.pexpire(f"chat:stream:{conversation_id}:{run_id}", ms)

    def publish(self, channel: str, key: str) -> None:
        self.client.publish(channel, key)

    def flushall(self) -> None:
        for client in self._servers():
            client.flushall()

    def kill_subscribers(self) -> None:
        """Break every connection that only listens, as a proxy or an operator might."""
        for client in self._servers():
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    def _servers(self) -> list[Any]:
        if not isinstance(self.client, RedisCluster):
            return [self.client]
        return [node.redis_connection for node in self.client.get_primaries()]

    def clock(self) -> float:
        """The time at which this is done (Unix s)."""
        return time.time()


def client_at(url: str) -> Any:
    if not url.startswith("redis+cluster://"):
        return redis.Redis.from_url(url)
    hosts = [each.rpartition(":") for each in url.partition("://")[2].split(",")]
    return RedisCluster(startup_nodes=[ClusterNode(host, int(port)) for host, _, port in hosts])


def main() -> None:
    backend = Backend(client_at(sys.argv[1]))
    for line in sys.stdin:
        name, arguments, options = json.loads(line)
        print(json.dumps(getattr(backend, name)(*arguments, **options)), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
