"""A task's lease, read past the package: from the record that the store keeps."""

from __future__ import annotations

import json
from urllib.parse import quote

import redis


class Lease:
    """A task's lease as the store has it."""

    def __init__(self, storage: str, conversation_id: str, task_id: str) -> None:
        self._client = redis.Redis.from_url(storage)
        self._key = f"sessionstatus:{{{quote(conversation_id, safe='')}}}"
        self._field = f"task:{task_id}"

    def deadline(self) -> int:
        text = self._client.hget(self._key, self._field)
        assert text is not None
        deadline: int = json.loads(text)["deadline"]  # type: ignore[arg-type]
        return deadline

    def now(self) -> int:
        """The store's time, Unix ms."""
        seconds, microseconds = self._client.time()  # type: ignore[misc]
        return seconds * 1000 + microseconds // 1000
