"""A process that forks while it works: the child starts with nothing of its parent's, and both complete."""

from __future__ import annotations

import threading
from collections.abc import Callable

from faults.conftest import Started
from faults.stores import FaultyRedis
from harness import whole_log

from flask_sessionstatus.stores import Limits, store_from_uri
from flask_sessionstatus.stores.base import TaskRef

CHILDREN, COUNT = 10, 200


def test_a_parents_run_raises_in_its_child_and_the_childs_own_work_and_the_parents_complete(
    server: FaultyRedis, script: Callable[..., Started], conversation_id: str
) -> None:
    process = script("forking.py", conversation_id, str(CHILDREN), STORAGE_URI=server.url)
    lines = [line.split() for line in process.communicate(timeout=30)[0].splitlines()]
    assert process.returncode == 0
    assert [line[0] for line in lines] == ["child"] * CHILDREN + ["parent"]
    assert [line[3:] for line in lines[:-1]] == [["emit", "progress", "flush"]] * CHILDREN

    store = store_from_uri(server.url, Limits())
    for _, session_id, task_id, *_ in lines:
        session = store.session(session_id)
        assert session is not None
        page = whole_log(store, TaskRef(session.conversation_id, session_id, task_id))
        assert page is not None
        assert page.task.state.value == "completed"
        assert [event.data for event in page.events[:-1]] == list(range(COUNT))
    store.close()


def test_a_child_that_is_forked_while_redis_is_away_starts_clean_and_hands_over_its_own(
    server: FaultyRedis, script: Callable[..., Started], conversation_id: str
) -> None:
    server.kill()
    back = threading.Timer(1.0, server.start)
    process = script("forking.py", conversation_id, "4", STORAGE_URI=server.url, IN_MEMORY_FALLBACK="true")
    back.start()
    lines = [line.split() for line in process.communicate(timeout=40)[0].splitlines()]
    back.join()
    assert process.returncode == 0
    assert [line[0] for line in lines] == ["child"] * 4 + ["parent"]
    store = store_from_uri(server.url, Limits())
    for _, session_id, task_id, *_ in lines:
        session = store.session(session_id)
        assert session is not None
        tasks = store.tasks(session_id, 10)
        assert tasks is not None
        assert [(task.task_id, task.state.value) for task in tasks] == [(task_id, "completed")]
        page = whole_log(store, TaskRef(session.conversation_id, session_id, task_id))
        assert page is not None
        assert [event.data for event in page.events[:-1]] == list(range(COUNT))
    store.close()
