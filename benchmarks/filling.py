"""A helper of the other benchmarks, nothing to run: many sessions at once.

What `create_session` and `begin` do, by the same scripts, in pipelines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from flask_sessionstatus.stores.base import SessionDraft, TaskDraft
from flask_sessionstatus.stores.redis import RedisStore
from flask_sessionstatus.stores.redis.calls import Scripted, Step
from flask_sessionstatus.stores.redis.keys import member, quoted

CHUNK = 250

TaskOf = Callable[[SessionDraft], "TaskDraft | None"]


def steps(store: RedisStore, draft: SessionDraft, task: TaskDraft | None) -> Sequence[Step]:
    """The session's name, its place, and the session itself, with a task if there is one."""
    keys, life = store._keys, store.limits.session_ttl
    conversation, place = quoted(draft.conversation_id), member(draft.session_id, draft.conversation_id)
    return (
        ("SET", keys.session(draft.session_id), conversation, "NX", "PX", life),
        Scripted("reserve", keys.namespace(draft.namespace_id), (place, life, "", 0, 0)),
        store._begin_step(draft, task, (), "allow", True),
    )


def fill(
    store: RedisStore,
    drafts: Iterable[SessionDraft],
    after: Callable[[], None] = lambda: None,
    task_of: TaskOf = lambda _: None,
) -> None:
    """Make all the sessions; `after` is called after each pipeline."""
    rest = iter(drafts)
    while some := list(islice(rest, CHUNK)):
        store._calls.together(*(step for draft in some for step in steps(store, draft, task_of(draft))))
        after()
