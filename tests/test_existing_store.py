"""Other programs' sessions beside our own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from fallbacks import Rig
from harness import a_session, once_available

from flask_sessionstatus.sessions import owner_of
from flask_sessionstatus.stores.base import Limits
from flask_sessionstatus.stores.bounds import RECENT_SESSIONS
from flask_sessionstatus.stores.existing_keys import ExistingKeys
from flask_sessionstatus.stores.existing_keys.store import ExistingKeysStore

TTL = Limits().session_ttl


@pytest.fixture
def rig(redis_url: Callable[[str], str]) -> Iterator[Rig]:
    rig = Rig(redis_url("newest"))
    yield rig
    rig.close()


def test_our_own_stowed_sessions_are_seen_beside_another_programs(rig: Rig) -> None:
    for n in range(RECENT_SESSIONS + 16):
        rig.plain.create_session(a_session(f"s{n:02}", "c1"))
        rig.clock.move(1)
    stowed = rig.client.zrange("sessionstatus:{c1}:stowed", 0, -1)[0].decode()
    rig.clock.move(TTL // 2)
    rig.plain.touch([stowed])
    rig.clock.move(TTL // 2 + 1000)
    rig.client.xadd("chat:c1:theirs", {"type": "token"})
    store = ExistingKeysStore(rig.direct(), ExistingKeys.parse({"stream": "chat:{conversation_id}:{session_id}"}))
    try:
        snapshot = once_available(lambda: store.snapshot("c1"))
        assert sorted(snapshot.sessions) == [stowed, "theirs"]
        assert owner_of(snapshot) == "u1"
    finally:
        store.close()
