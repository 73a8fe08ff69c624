"""RQ's workers as processes, and tracked jobs for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import rq
from integrations.queued import PATIENCE, Host, Puppet, a_name, settings
from processes.client import wait_until
from redis import Redis
from rq.exceptions import InvalidJobOperation
from rq.job import Job, JobStatus

from flask_sessionstatus.integrations import rq as tracking

FOLDER = Path(__file__).parent
ENDED = (JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED)


class WorkerProcess:
    """`rq worker` with a worker class of the package."""

    def __init__(
        self, host: Host, broker: str, queue: str, log: Path, kind: str, monitoring: int, **others: str
    ) -> None:
        self.log = log
        environment = {
            **os.environ,
            **{f"FLASK_SESSIONSTATUS_{name}": str(value) for name, value in settings(host.storage).items()},
            "PYTHONPATH": os.pathsep.join([str(FOLDER), os.environ.get("PYTHONPATH", "")]),
            "PUPPETS": host.puppets,
            **others,
        }
        command = [sys.executable, "-m", "rq.cli", "worker", "--with-scheduler", "--url", broker]
        command += ["--job-monitoring-interval", str(monitoring)]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, "--worker-class", f"flask_sessionstatus.integrations.rq.{kind}", queue],
                env=environment,
                cwd=FOLDER,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def waits(self) -> WorkerProcess:
        """Wait until it listens."""
        wait_until(lambda: "Listening on" in self.log.read_text() or self.process.poll(), 20, "the worker listens")
        assert self.process.poll() is None, self.log.read_text()
        return self

    def is_told(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def has_ended(self, status: int = 0) -> None:
        assert self.process.wait(PATIENCE) == status, self.log.read_text()

    def kill_all(self) -> None:
        """SIGKILL to the worker and to all that it has started, also where it has ended before them."""
        for pid in self.family():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)

    def family(self) -> list[int]:
        """The worker's process, its work-horse's and its scheduler's: those of the session that it leads."""
        pids = []
        for pid in psutil.pids():
            with suppress(ProcessLookupError):
                if os.getsid(pid) == self.process.pid:
                    pids.append(pid)
        return pids


class JobPuppet(Puppet):
    """A tracked job."""

    job: Job

    @property
    def status(self) -> str | None:
        """What RQ says of the job; None when it is gone."""
        with suppress(InvalidJobOperation):
            return self.job.get_status(refresh=True).value
        return None

    def has_ended_once(self, state: str, error_type: str | None = None) -> None:
        wait_until(lambda: self.status in (None, *ENDED), PATIENCE, "the end in RQ")
        super().has_ended_once(state, error_type)


class Jobs:
    """A queue of its own, and the workers that listen to it; `broker` is RQ's Redis, by default that of the puppets."""

    def __init__(self, host: Host, folder: Path, broker: str | None = None) -> None:
        self.host = host
        self.broker = broker or host.puppets
        self.connection = Redis.from_url(self.broker)
        self.queue = rq.Queue(a_name(), connection=self.connection)
        self._folder = folder
        self._workers: list[WorkerProcess] = []
        self._enqueued: list[JobPuppet] = []

    def worker(self, kind: str = "Worker", monitoring: int = 30, **environment: str) -> WorkerProcess:
        """Start a worker; every `monitoring` s it looks after its work-horse."""
        log = self._folder / f"worker-{a_name()}.log"
        self._workers.append(
            WorkerProcess(self.host, self.broker, self.queue.name, log, kind, monitoring, **environment)
        )
        return self._workers[-1]

    def meta(self, conversation_id: str, **options: Any) -> dict[str, Any]:
        with self.host.app.app_context():
            return tracking.track(conversation_id, namespace_id="u1", **options)

    def enqueue(self, function: str = "puppet", tracked: dict[str, Any] | None = None, **options: Any) -> JobPuppet:
        """A tracked job: a function of puppet.py, by default the puppet."""
        options_of_task = {"conversation_id": a_name(), **(tracked or {})}
        meta = self.meta(**options_of_task)
        ids = meta["sessionstatus"]
        puppet = JobPuppet(self.host, options_of_task["conversation_id"], ids["session_id"], ids["task_id"])
        self._enqueued.append(puppet)
        arguments = [puppet.name] if function == "puppet" else []
        puppet.job = self.queue.enqueue(f"puppet.{function}", *arguments, meta=meta, **options)
        return puppet

    def has_worker(self) -> bool:
        return all(each.process.poll() is None for each in self._workers)

    def go_on(self) -> None:
        """Be ready for another test: a worker that a job of this one still holds, or that has ended, is replaced."""
        if self.has_worker() and all(job.status in (None, *ENDED) for job in self._enqueued):
            self._forget_jobs()
            return
        self._remove_workers()
        self._forget_jobs()
        self.queue = rq.Queue(a_name(), connection=self.connection)
        self.worker().waits()

    def close(self) -> None:
        self._remove_workers()
        self._forget_jobs()
        self.connection.close()

    def _remove_workers(self) -> None:
        for worker in self._workers:
            worker.kill_all()
        self._workers.clear()

    def _forget_jobs(self) -> None:
        for job in self._enqueued:
            job.close()
        self._enqueued.clear()


@pytest.fixture(scope="module")
def shared(web: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    jobs = Jobs(web, tmp_path_factory.mktemp("shared"))
    jobs.worker().waits()
    yield jobs
    jobs.close()


@pytest.fixture
def jobs(shared: Jobs) -> Iterator[Jobs]:
    """A queue whose worker outlives the test."""
    yield shared
    survived = shared.has_worker()
    shared.go_on()
    assert survived


@pytest.fixture
def fresh(web: Host, tmp_path: Path) -> Iterator[Jobs]:
    """A queue to which no worker listens yet."""
    jobs = Jobs(web, tmp_path)
    yield jobs
    jobs.close()
