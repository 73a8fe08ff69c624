"""A process that forks while it works: the child starts with nothing of its parent's, and both complete."""

from __future__ import annotations

from collections.abc import Callable

from faults.conftest import Started
from faults.stores import FaultyRedis

from flask_sessionstatus.models import ORIGIN
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
        page = store.events(TaskRef(session.conversation_id, session_id, task_id), ORIGIN, COUNT + 10)
        assert page is not None
        assert page.task.state.value == "completed"
        assert [event.data for event in page.events[:-1]] == list(range(COUNT))
    store.close()
