"""What followers of one task share: a stretch of its log."""

import pytest

from flask_sessionstatus.models import ORIGIN, Cursor
from flask_sessionstatus.stores import Limits, MemoryStore
from flask_sessionstatus.stores.base import Append, SessionDraft, TaskDraft, TaskRef
from flask_sessionstatus.streaming.hub import KEPT, PAGE, Channel, Hub

pytestmark = pytest.mark.core

REF = TaskRef("conversation", "session", "task")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(Limits(max_events=100_000))


@pytest.fixture
def epoch(store: MemoryStore) -> int:
    return store.begin(SessionDraft("session", "conversation", None, "en"), TaskDraft("task", "token")).epoch


@pytest.fixture
def channel(store: MemoryStore) -> Channel:
    channel = Hub(store, 10).enter(REF)
    assert channel is not None
    return channel


def append(store: MemoryStore, epoch: int, base: int, count: int) -> None:
    events = [("token", str(number)) for number in range(base + 1, base + count + 1)]
    store.append([Append(REF, 1, epoch, base, 0, events)])


def read_all(channel: Channel, store: MemoryStore, after: Cursor, version: int) -> list[int]:
    numbers = []
    while True:
        page = channel.look(store, after, version)
        assert page is not None
        if not page.events:
            return numbers
        numbers += [event.cursor.number for event in page.events]
        after = page.events[-1].cursor


def test_a_follower_far_behind_misses_nothing_when_the_stretch_is_cut(
    store: MemoryStore, epoch: int, channel: Channel
) -> None:
    append(store, epoch, 0, 2 * KEPT)
    assert read_all(channel, store, ORIGIN, 0) == list(range(1, 2 * KEPT + 1))
    behind = Cursor(epoch, PAGE)
    append(store, epoch, 2 * KEPT, PAGE)
    assert read_all(channel, store, behind, 1) == list(range(PAGE + 1, 2 * KEPT + PAGE + 1))


def test_a_follower_from_the_start_sees_everything_while_another_is_at_the_tail(
    store: MemoryStore, epoch: int, channel: Channel
) -> None:
    total = 5 * KEPT
    append(store, epoch, 0, total)
    at_the_tail = Cursor(epoch, total)
    assert read_all(channel, store, at_the_tail, 0) == []
    assert read_all(channel, store, ORIGIN, 0) == list(range(1, total + 1))
    append(store, epoch, total, 3)
    assert read_all(channel, store, at_the_tail, 1) == [total + 1, total + 2, total + 3]


def test_followers_at_the_same_place_share_one_read(store: MemoryStore, epoch: int, channel: Channel) -> None:
    append(store, epoch, 0, 10)
    reads = []
    events = store.events
    store.events = lambda *arguments: reads.append(arguments) or events(*arguments)  # type: ignore[method-assign]
    for _ in range(5):
        assert read_all(channel, store, ORIGIN, 0) == list(range(1, 11))
    assert len(reads) == 1
