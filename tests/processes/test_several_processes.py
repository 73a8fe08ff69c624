"""F23: what gunicorn's workers say when each keeps its sessions in its own memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from processes.client import wait_until
from processes.gunicorns import Gunicorn


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)


@pytest.mark.parametrize("kind", ["sync", "gthread", "gevent"])
@pytest.mark.parametrize("preload", [False, True])
def test_each_worker_says_loudly_that_there_are_others(
    serve: Callable[..., Gunicorn], kind: str, preload: bool
) -> None:
    options = ["--workers", "2", "--worker-class", kind, *(["--preload"] if preload else [])]
    web = serve(*options, STORAGE_URI="memory://")
    found = web.client.get("/api/v1/health").json
    assert (found["status"], found["store"], found["degraded"]) == ("degraded", "memory", True)

    def said() -> list[str]:
        return [line for line in web.log.read_text().splitlines() if "gunicorn runs 2 workers, and each" in line]

    def both_have_said_so() -> bool:
        web.client.get("/api/v1/health")
        return len(said()) == 2

    wait_until(both_have_said_so, 10, "a line of each worker")


@pytest.mark.parametrize("by", ["WEB_CONCURRENCY", "GUNICORN_CMD_ARGS"])
def test_it_does_not_matter_where_gunicorn_was_told(
    serve: Callable[..., Gunicorn], by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(by, "3" if by == "WEB_CONCURRENCY" else "--workers 3")
    web = serve("--worker-class", "gthread", STORAGE_URI="memory://")
    assert web.client.get("/api/v1/health").json["degraded"] is True
    assert "gunicorn runs 3 workers" in web.log.read_text()


@pytest.mark.parametrize("preload", [False, True])
def test_one_worker_with_threads_is_fine_whatever_the_environment_says(
    serve: Callable[..., Gunicorn], preload: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not preload:  # there the app is made before gunicorn can be asked
        monkeypatch.setenv("WEB_CONCURRENCY", "4")
    options = ["--workers", "1", "--threads", "4", *(["--preload"] if preload else [])]
    web = serve(*options, STORAGE_URI="memory://")
    found = web.client.get("/api/v1/health").json
    assert (found["status"], found["degraded"]) == ("ok", False)
    assert "each process keeps its own sessions" not in web.log.read_text()


def test_several_workers_on_redis_are_as_it_should_be(serve: Callable[..., Gunicorn], storage: str) -> None:
    web = serve("--workers", "2", STORAGE_URI=storage)
    assert web.client.get("/api/v1/health").json["degraded"] is False
    assert "each process" not in web.log.read_text()
