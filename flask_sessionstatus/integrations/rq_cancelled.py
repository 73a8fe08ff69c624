"""Jobs that are cancelled in RQ: nobody is told of it, but RQ lists them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from redis.exceptions import RedisError
from rq import Queue
from rq.job import Job
from rq.registry import CanceledJobRegistry

from ..errors import StoreUnavailable

log = logging.getLogger("flask_sessionstatus")

# How far behind the clocks of those who cancel jobs may be (s).
SKEW = 60.0


class CancelledJobs:
    """Looks again and again, every `interval` s, for jobs of these queues that were cancelled, and tells `on_cancelled`
    of each once. The first look goes back for `since` s."""

    def __init__(
        self, queues: Sequence[Queue], on_cancelled: Callable[[Job], None], interval: float, since: float
    ) -> None:
        self._queues = queues
        self._on_cancelled = on_cancelled
        self._interval = interval
        self._since = time.time() - since
        self._told: set[str] = set()
        self._closed = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="sessionstatus-cancelled-jobs", daemon=True).start()

    def close(self) -> None:
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(self._interval):
            try:
                self.look()
            except (RedisError, StoreUnavailable) as error:
                log.info("Cancelled jobs are looked for again in a moment: %s", error)
            except Exception:  # whatever goes wrong in one look, the next must come
                log.exception("A look for cancelled jobs failed.")

    def look(self) -> None:
        """Tell of the jobs that were cancelled since the last look. Raises as `on_cancelled` does: then they are looked
        at again."""
        now = time.time()
        listed: set[str] = set()
        for queue in self._queues:
            ids = self._listed_in(queue)
            listed |= ids
            new = sorted(ids - self._told)
            for job in Job.fetch_many(new, connection=queue.connection, serializer=queue.serializer):
                if job is not None:
                    self._on_cancelled(job)
        self._told = listed
        self._since = now - SKEW

    def _listed_in(self, queue: Queue) -> set[str]:
        """RQ lists a cancelled job with the time at which it was cancelled."""
        keys: list[bytes] = queue.connection.zrangebyscore(  # type: ignore[assignment]
            CanceledJobRegistry(queue=queue).key, self._since, "+inf"
        )
        return {key.decode() for key in keys}
