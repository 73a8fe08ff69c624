"""Sessions on every store: made, found, kept alive, listed, deleted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from harness import START, STRANGE_IDS, Clock, Job, Kind, a_session, a_task, at_once, begin, heal

from flask_sessionstatus.errors import InvalidValue, NamespaceFull, NotFound, SessionConflict
from flask_sessionstatus.models import ORIGIN, SessionState, Turn
from flask_sessionstatus.stores.base import Limits, Store, Tally, Verdict

MakeStore = Callable[[Limits], Store]
TTL = Limits().session_ttl
LEASE = Limits().lease


def test_a_created_session_is_found_with_all_it_was_given(store: Store) -> None:
    store.create_session(
        a_session(language="de", device_type="phone", client_version="1.2", metadata={"a": [1, None], "naïve:ключ": {}})
    )
    session = store.session("s1")
    assert session is not None
    assert (session.session_id, session.conversation_id, session.namespace_id) == ("s1", "c1", "u1")
    assert (session.language, session.device_type, session.client_version) == ("de", "phone", "1.2")
    assert session.metadata == {"a": [1, None], "naïve:ключ": {}}
    assert session.status is SessionState.IDLE
    assert (session.created_at, session.last_activity, session.expires_at) == (START, START, START + TTL)
    assert (session.message_count, session.pending_tasks_count, session.latest_task) == (0, 0, None)
    assert (session.current_slots, session.current_template_id) == ({}, None)


def test_an_unknown_session_is_none_everywhere(store: Store) -> None:
    assert store.session("s1") is None
    assert store.turns("s1", None, 10) is None
    assert store.tasks("s1", 10) is None
    assert store.task("s1", "t1") is None
    assert store.result("s1", "t1") is None
    assert store.add_turns("s1", [Turn("user", "hello", turn_id="1")], {}) is None
    assert store.update_session("s1", {"language": "de"}) is False
    assert store.delete_session("s1") is False
    snapshot = store.snapshot("c1")
    assert (snapshot.sessions, snapshot.tasks) == ({}, {})


def test_creating_a_session_that_is_there_leaves_it_as_it_is(store: Store, clock: Clock) -> None:
    store.create_session(a_session(metadata={"first": 1}))
    clock.move(1000)
    store.create_session(a_session(metadata={"second": 2}, language="fr"))
    session = store.session("s1")
    assert session is not None
    assert (session.metadata, session.language) == ({"first": 1}, "nl")
    assert (session.created_at, session.last_activity) == (START, START)


def test_a_session_id_cannot_be_taken_for_another_conversation(store: Store) -> None:
    store.create_session(a_session())
    with pytest.raises(SessionConflict):
        store.create_session(a_session(conversation_id="c2"))
    with pytest.raises(SessionConflict):
        begin(store, a_session(conversation_id="c2"))
    assert store.snapshot("c2").sessions == {}
    session = store.session("s1")
    assert session is not None
    assert session.conversation_id == "c1"


def test_a_session_of_another_namespace_is_a_conflict(store: Store) -> None:
    store.create_session(a_session())
    with pytest.raises(SessionConflict):
        store.create_session(a_session(namespace_id="u2"))
    with pytest.raises(SessionConflict):
        begin(store, a_session(namespace_id=None))
    assert [session.session_id for session in store.sessions("u1", 10, None).sessions] == ["s1"]
    assert store.sessions("u2", 10, None).sessions == []


def test_who_is_granted_a_conversation_may_begin_in_a_session_of_another_namespace(store: Store) -> None:
    store.create_session(a_session())
    store.create_session(a_session(namespace_id="u2"), own=False)
    job = begin(store, a_session(namespace_id="u2"), own=False)
    assert job.task.state.live
    session = store.session("s1")
    assert session is not None
    assert session.namespace_id == "u1"


def test_of_concurrent_creates_exactly_one_makes_the_session(store: Store) -> None:
    at_once(*(lambda n=n: store.create_session(a_session(metadata={"by": n})) for n in range(8)))  # type: ignore[misc]
    assert store.totals().sessions_created == 1
    assert len(store.sessions("u1", 10, None).sessions) == 1


def test_a_snapshot_holds_every_session_and_task_of_its_conversation_and_no_other(store: Store, clock: Clock) -> None:
    begin(store, a_session("s1"), a_task("t1"))
    store.create_session(a_session("s2"))
    begin(store, a_session("s3", "other"), a_task("t3"))
    snapshot = store.snapshot("c1")
    assert set(snapshot.sessions) == {"s1", "s2"}
    assert set(snapshot.tasks) == {"t1"}
    assert snapshot.now == clock.now
    assert snapshot.task("t1").namespace_id == "u1"
    assert snapshot.task("t1").session_id == "s1"


# Expiry


def test_writes_slide_the_expiry_and_reads_do_not(store: Store, clock: Clock) -> None:
    store.create_session(a_session())
    clock.move(TTL - 1000)
    assert store.update_session("s1", {"meta:a": "1"})
    clock.move(TTL - 1000)
    for _ in range(3):
        assert store.session("s1") is not None
        assert store.turns("s1", None, 5) == []
        assert len(store.snapshot("c1").sessions) == 1
        assert len(store.sessions("u1", 5, None).sessions) == 1
    clock.move(1000)
    assert store.session("s1") is None


def test_an_expired_session_is_gone_everywhere_at_the_same_moment(store: Store, clock: Clock) -> None:
    job = begin(store)
    job.end(result='"r"')
    store.add_turns("s1", [Turn("user", "hello", turn_id="1")], {})
    clock.move(TTL - 1000)
    assert store.session("s1") is not None
    assert store.result("s1", "t1") == '"r"'
    clock.move(1000)
    assert store.session("s1") is None
    assert store.snapshot("c1").sessions == {}
    assert store.snapshot("c1").tasks == {}
    assert store.sessions("u1", 10, None).sessions == []
    assert store.sessions(None, 10, None).sessions == []
    assert store.turns("s1", None, 10) is None
    assert store.tasks("s1", 10) is None
    assert store.task("s1", "t1") is None
    assert store.result("s1", "t1") is None
    assert job.page() is None
    assert job.cancel() is None
    assert store.update_session("s1", {"meta:a": "1"}) is False
    assert store.delete_session("s1") is False


def test_an_expired_session_beside_a_live_one_is_gone_too(store: Store, clock: Clock) -> None:
    job = begin(store, a_session("s1"))
    job.end(result='"r"')
    store.add_turns("s1", [Turn("user", "hello", turn_id="1")], {})
    clock.move(TTL // 2)
    store.create_session(a_session("s2"))
    clock.move(TTL // 2)
    assert store.session("s1") is None
    assert set(store.snapshot("c1").sessions) == {"s2"}
    assert store.snapshot("c1").tasks == {}
    assert store.turns("s1", None, 10) is None
    assert store.tasks("s1", 10) is None
    assert store.task("s1", "t1") is None
    assert store.result("s1", "t1") is None
    assert job.page() is None
    assert job.cancel() is None
    assert job.beat().verdict is Verdict.MISSING
    assert job.append(["late"]).verdict is Verdict.MISSING


def test_an_expired_session_can_be_made_again_and_is_empty(store: Store, clock: Clock) -> None:
    begin(store, a_session(metadata={"a": 1})).end()
    store.add_turns("s1", [Turn("user", "hello", turn_id="1", slots={})], {"slot:x": "1"})
    clock.move(TTL)
    store.create_session(a_session(conversation_id="c2", namespace_id="u2"))
    session = store.session("s1")
    assert session is not None
    assert (session.conversation_id, session.namespace_id, session.metadata) == ("c2", "u2", {})
    assert (session.message_count, session.current_slots, session.created_at) == (0, {}, clock.now)
    assert store.turns("s1", None, 10) == []
    assert store.tasks("s1", 10) == []


def test_an_expired_session_made_again_in_the_same_conversation_is_empty(store: Store, clock: Clock) -> None:
    begin(store, a_session("s1")).end()
    store.add_turns("s1", [Turn("user", "hello", turn_id="1")], {"slot:x": "1"})
    clock.move(TTL // 2)
    store.create_session(a_session("s2"))
    clock.move(TTL // 2)
    begin(store, a_session("s1"), a_task("t2"))
    session = store.session("s1")
    assert session is not None
    assert (session.message_count, session.current_slots, session.created_at) == (0, {}, clock.now)
    tasks = store.tasks("s1", 10)
    assert tasks is not None
    assert [task.task_id for task in tasks] == ["t2"]
    assert set(store.snapshot("c1").tasks) == {"t2"}


def test_beats_keep_a_session_alive_and_are_no_activity(store: Store, clock: Clock) -> None:
    job = begin(store)
    for _ in range(5):
        clock.move(TTL // 2)
        assert job.beat().verdict is Verdict.STORED
    session = store.session("s1")
    assert session is not None
    assert session.last_activity == START
    assert session.expires_at == clock.now + TTL
    assert store.sessions("u1", 10, None).sessions == [session]


def test_a_kept_session_keeps_its_stream_turns_and_result(store: Store, clock: Clock) -> None:
    job = begin(store)
    job.append(["a"])
    job.end(result='"r"')
    for n in range(3):
        clock.move(TTL // 2 + 1)
        store.add_turns("s1", [Turn("user", str(n), turn_id=str(n))], {})
    assert job.texts() == ["a", "end"]
    assert store.result("s1", "t1") == '"r"'
    assert job.task.result_available
    turns = store.turns("s1", None, 10)
    assert turns is not None
    assert [turn.content for turn in turns] == ["0", "1", "2"]


def test_a_session_is_over_at_its_maximum_age_whatever_is_written(make_store: MakeStore, clock: Clock) -> None:
    store = make_store(Limits(max_age=TTL * 2))
    job = begin(store)
    for _ in range(3):
        clock.move(TTL // 2)
        assert job.beat().verdict is Verdict.STORED
        assert store.update_session("s1", {"meta:a": "1"})
    session = store.session("s1")
    assert session is not None
    assert session.expires_at == START + TTL * 2
    clock.move(TTL // 2)
    assert store.session("s1") is None
    assert job.append(["late"]).verdict is Verdict.MISSING


def test_a_session_past_its_maximum_age_is_not_made_again_by_its_late_writer(
    make_store: MakeStore, clock: Clock
) -> None:
    store = make_store(Limits(max_age=TTL * 2))
    job = begin(store)
    clock.move(TTL * 2)
    with pytest.raises(NotFound):
        heal(job)
    assert store.session("s1") is None
    assert store.snapshot("c1").sessions == {}


def test_a_session_made_for_a_socket_expires_at_the_connect_deadline(store: Store, clock: Clock) -> None:
    store.create_session(a_session("unused", for_socket=True))
    store.create_session(a_session("turned", for_socket=True))
    begin(store, a_session("worked", for_socket=True))
    store.add_turns("turned", [Turn("user", "hello", turn_id="1")], {})
    clock.move(Limits().connect_deadline)
    assert store.session("unused") is None
    assert store.session("turned") is not None
    assert store.session("worked") is not None


def test_a_change_of_metadata_does_not_lift_the_connect_deadline(store: Store, clock: Clock) -> None:
    store.create_session(a_session(for_socket=True))
    clock.move(Limits().connect_deadline - 1000)
    assert store.update_session("s1", {"meta:a": "1"})
    session = store.session("s1")
    assert session is not None
    assert (session.last_activity, session.expires_at) == (clock.now, START + Limits().connect_deadline)
    clock.move(1000)
    assert store.session("s1") is None


def test_a_connection_lifts_the_connect_deadline(store: Store, clock: Clock) -> None:
    for name in ("connected", "unused"):
        store.create_session(a_session(name, f"c-{name}", for_socket=True))
    clock.move(Limits().connect_deadline - 1000)
    assert store.touch(["connected", "unknown"]) == [True, False]
    clock.move(1000)
    assert store.session("unused") is None
    assert listed(store, "u1") == [["connected"]]
    session = store.session("connected")
    assert session is not None
    assert (session.last_activity, session.expires_at) == (START, clock.now - 1000 + TTL)
    assert store.update_session("connected", {"meta:a": "1"})
    clock.move(TTL - 1000)
    assert store.session("connected") is not None
    clock.move(1000)
    assert store.touch(["connected"]) == [False]


def test_a_session_lives_as_long_as_somebody_is_connected(store: Store, clock: Clock) -> None:
    job = begin(store)
    job.end()
    for _ in range(4):
        clock.move(TTL - 1000)
        assert store.touch(["s1"]) == [True]
    session = store.session("s1")
    assert session is not None
    assert session.last_activity == START
    assert job.texts() == ["end"]
    assert listed(store, "u1") == [["s1"]]


def test_a_connection_does_not_outlive_the_maximum_age(make_store: MakeStore, clock: Clock) -> None:
    store = make_store(Limits(max_age=TTL + 10))
    store.create_session(a_session(for_socket=True))
    assert store.touch(["s1"]) == [True]
    clock.move(TTL - 1000)
    assert store.touch(["s1"]) == [True]
    clock.move(1010)
    assert store.touch(["s1"]) == [False]
    assert store.session("s1") is None


def test_a_session_that_is_there_gets_no_connect_deadline(store: Store, clock: Clock) -> None:
    store.create_session(a_session())
    store.create_session(a_session(for_socket=True))
    clock.move(TTL - 1000)
    assert store.update_session("s1", {"meta:a": "1"})
    clock.move(TTL - 1000)
    assert store.session("s1") is not None


@pytest.mark.parametrize("live", [False, True])
def test_an_expired_session_can_be_created_again_in_its_conversation(store: Store, clock: Clock, live: bool) -> None:
    job = begin(store, a_session(metadata={"a": 1}))
    if not live:
        job.end()
    clock.move(TTL)
    store.create_session(a_session())
    session = store.session("s1")
    assert session is not None
    assert (session.metadata, session.created_at, session.latest_task) == ({}, clock.now, None)
    assert set(store.snapshot("c1").sessions) == {"s1"}
    assert store.totals().sessions_created == 2


# Turns and fields


def turns_of(*contents: str, role: str = "user") -> list[Turn]:
    return [Turn(role, content, turn_id=f"id-{content}") for content in contents]


def contents(turns: Sequence[Turn] | None) -> list[str]:
    assert turns is not None
    return [turn.content for turn in turns]


def test_turns_get_a_position_and_the_stores_time(store: Store, clock: Clock) -> None:
    store.create_session(a_session())
    clock.move(5)
    first = store.add_turns("s1", turns_of("a", "b"), {})
    clock.move(5)
    second = store.add_turns("s1", turns_of("c"), {})
    assert first is not None
    assert second is not None
    assert [(turn.position, turn.timestamp) for turn in (*first, *second)] == [
        (0, START + 5),
        (1, START + 5),
        (2, START + 10),
    ]
    assert store.turns("s1", None, 10) == [*first, *second]


def test_a_turn_keeps_all_that_it_holds(store: Store) -> None:
    store.create_session(a_session())
    turn = Turn(
        "assistant",
        "Grüße\n  ключ \u2028 🎈",
        turn_id="1",
        sources=[{"url": "x"}],
        resolved_question="who?",
        template_id="t",
        slots={"a": None, "b": [1.5, True]},
        results={"rows": []},
    )
    stored = store.add_turns("s1", [turn], {})
    assert stored is not None
    assert stored[0].__dict__ == {**turn.__dict__, "position": 0, "timestamp": START}
    assert store.turns("s1", None, 1) == stored


def test_the_last_turns_before_a_position(store: Store) -> None:
    store.create_session(a_session())
    store.add_turns("s1", turns_of(*"abcdefg"), {})
    assert contents(store.turns("s1", None, 3)) == ["e", "f", "g"]
    assert contents(store.turns("s1", 4, 3)) == ["b", "c", "d"]
    assert contents(store.turns("s1", 1, 3)) == ["a"]
    assert contents(store.turns("s1", 0, 3)) == []
    assert contents(store.turns("s1", 99, 2)) == ["f", "g"]


def test_only_the_last_turns_are_kept_and_positions_stay(make_store: MakeStore) -> None:
    store = make_store(Limits(max_turns=3))
    store.create_session(a_session())
    store.add_turns("s1", turns_of("a", "b"), {})
    store.add_turns("s1", turns_of("c", "d", "e"), {})
    turns = store.turns("s1", None, 10)
    assert turns is not None
    assert [(turn.position, turn.content) for turn in turns] == [(2, "c"), (3, "d"), (4, "e")]
    assert contents(store.turns("s1", 3, 10)) == ["c"]
    assert contents(store.turns("s1", 2, 10)) == []
    session = store.session("s1")
    assert session is not None
    assert session.message_count == 5


def test_fields_and_turns_are_one_step(store: Store) -> None:
    store.create_session(a_session(metadata={"kept": 1, "gone": 2}))
    store.add_turns("s1", turns_of("a"), {"slot:x": "1", "slot:y": '"ключ"', "template": "t1", "meta:gone": None})
    session = store.session("s1")
    assert session is not None
    assert session.current_slots == {"x": 1, "y": "ключ"}
    assert session.current_template_id == "t1"
    assert session.metadata == {"kept": 1}
    assert session.message_count == 1


def test_slots_can_be_cleared(store: Store) -> None:
    store.create_session(a_session())
    store.update_session("s1", {"slot:x": "1", "slot:y": "2"})
    store.update_session("s1", {"slot:x": None, "slot:never": None})
    session = store.session("s1")
    assert session is not None
    assert session.current_slots == {"y": 2}


def test_every_turn_of_concurrent_writers_is_kept_once(store: Store) -> None:
    store.create_session(a_session())
    at_once(*(lambda n=n: [store.add_turns("s1", turns_of(f"{n}.{i}"), {}) for i in range(10)] for n in range(8)))  # type: ignore[misc]
    turns = store.turns("s1", None, 1000)
    assert turns is not None
    assert [turn.position for turn in turns] == list(range(80))
    assert sorted(contents(turns)) == sorted(f"{n}.{i}" for n in range(8) for i in range(10))
    for n in range(8):
        assert [text for text in contents(turns) if text.startswith(f"{n}.")] == [f"{n}.{i}" for i in range(10)]


def test_turns_given_as_one_step_stay_together_among_concurrent_writers(store: Store) -> None:
    store.create_session(a_session())
    at_once(*(lambda n=n: store.add_turns("s1", turns_of(f"{n}.question", f"{n}.answer"), {}) for n in range(8)))  # type: ignore[misc]
    texts = contents(store.turns("s1", None, 100))
    assert [text.split(".")[0] for text in texts[::2]] == [text.split(".")[0] for text in texts[1::2]]


# What is counted


def test_what_is_counted_of_sessions_is_added_up(store: Store, clock: Clock) -> None:
    for session_id in ("s1", "s2"):
        store.create_session(a_session(session_id))
    clock.move(5)
    amounts = {"accesses": 2, "audio_received": 7, "audio_processed": 6, "count:words": 5, "count:ключ": -1}
    answers = store.tally([Tally("s1", amounts, "w1", 1), Tally("gone", amounts, "w1", 1), Tally("s2", {}, "w1", 1)])
    # One that goes on without its Redis keeps what was counted of a session that it does not know.
    assert answers == [True, store.degraded, True]
    store.tally([Tally("s1", {"count:words": 5}, "w2", 1)])
    session, other = store.session("s1"), store.session("s2")
    assert session is not None
    assert other is not None
    assert (session.access_count, session.last_accessed) == (2, START + 5)
    assert (session.audio_chunks_received, session.audio_chunks_processed) == (7, 6)
    assert session.counters == {"words": 10, "ключ": -1}
    assert (other.access_count, other.last_accessed, other.counters) == (0, None, {})


def test_a_repeated_tally_counts_nothing_twice(store: Store) -> None:
    store.create_session(a_session())
    for number in (1, 1, 2, 1, 2, 3):
        assert store.tally([Tally("s1", {"count:a": 1}, "w1", number)]) == [True]
    session = store.session("s1")
    assert session is not None
    assert session.counters == {"a": 3}


def test_a_tally_is_no_activity_and_extends_nothing(store: Store, clock: Clock) -> None:
    store.create_session(a_session())
    clock.move(TTL - 1000)
    assert store.tally([Tally("s1", {"accesses": 1}, "w1", 1)]) == [True]
    session = store.session("s1")
    assert session is not None
    assert (session.last_activity, session.expires_at) == (START, START + TTL)
    clock.move(1000)
    assert store.tally([Tally("s1", {"accesses": 1}, "w1", 2)]) == [store.degraded]


def test_concurrent_tallies_are_exact(store: Store) -> None:
    store.create_session(a_session())
    at_once(
        *(
            lambda w=w: [store.tally([Tally("s1", {"count:a": 1}, f"w{w}", n)]) for n in range(1, 51)]  # type: ignore[misc]
            for w in range(8)
        )
    )
    session = store.session("s1")
    assert session is not None
    assert session.counters == {"a": 400}


# Deleting


def test_a_deleted_session_is_gone_everywhere(store: Store) -> None:
    job = begin(store)
    job.append(["a"])
    store.add_turns("s1", turns_of("x"), {})
    assert store.delete_session("s1") is True
    assert store.delete_session("s1") is False
    assert store.session("s1") is None
    assert store.snapshot("c1").sessions == {}
    assert store.snapshot("c1").tasks == {}
    assert store.sessions("u1", 10, None).sessions == []
    assert store.turns("s1", None, 10) is None
    assert store.tasks("s1", 10) is None
    assert store.task("s1", "t1") is None
    with pytest.raises(NotFound):
        job.page()
    assert job.cancel() is None
    assert store.update_session("s1", {"language": "x"}) is False


def test_nothing_brings_a_deleted_session_back(store: Store) -> None:
    job = begin(store)
    store.delete_session("s1")
    assert store.touch(["s1"]) == [False]
    assert job.append(["late"]).verdict is Verdict.DELETED
    assert job.end().verdict is Verdict.DELETED
    assert job.beat().verdict is Verdict.DELETED
    for attempt in (
        lambda: heal(job),
        lambda: begin(store, task=a_task("t2")),
        lambda: store.create_session(a_session()),
        lambda: begin(store, a_session(conversation_id="c1"), a_task("t1", attempt=2)),
        lambda: store.create_session(a_session(conversation_id="c2")),
        lambda: begin(store, a_session(conversation_id="c2"), a_task("t2")),
    ):
        with pytest.raises(NotFound):
            attempt()
    assert store.add_turns("s1", turns_of("late"), {}) is None
    assert store.session("s1") is None
    assert store.snapshot("c1").sessions == {}
    assert store.snapshot("c1").tasks == {}


def test_a_deleted_task_cannot_begin_in_another_session(store: Store) -> None:
    begin(store, a_session("s1"), a_task("t1"))
    store.delete_session("s1")
    with pytest.raises(NotFound):
        begin(store, a_session("s2"), a_task("t1"))
    assert store.snapshot("c1").tasks == {}


def test_a_delete_leaves_the_conversations_other_sessions(store: Store) -> None:
    first, second = begin(store, a_session("s1"), a_task("t1")), begin(store, a_session("s2"), a_task("t2"))
    second.append(["b"])
    store.delete_session("s1")
    assert set(store.snapshot("c1").sessions) == {"s2"}
    assert second.append(["c"]).verdict is Verdict.STORED
    assert second.texts() == ["b", "c"]
    assert first.append(["late"]).verdict is Verdict.DELETED


def test_earlier_finished_tasks_are_deleted_with_their_session(store: Store) -> None:
    first = begin(store, task=a_task("t1"))
    first.end(result="1")
    begin(store, task=a_task("t2"))
    store.delete_session("s1")
    with pytest.raises(NotFound):
        first.page()
    assert store.result("s1", "t1") is None
    assert first.append(["late"]).verdict is Verdict.DELETED


# Listing


def listed(store: Store, namespace: str | None, limit: int = 50) -> list[list[str]]:
    """The ids of all pages."""
    pages: list[list[str]] = []
    after: str | None = None
    while True:
        page = store.sessions(namespace, limit, after)
        pages.append([session.session_id for session in page.sessions])
        after = page.next
        if after is None:
            return pages


def test_a_listing_holds_only_ones_own_newest_activity_first(store: Store, clock: Clock) -> None:
    for name in ("a", "b", "c"):
        store.create_session(a_session(name, f"c-{name}"))
        clock.move(10)
    store.create_session(a_session("x", "c-x", namespace_id="u2"))
    store.create_session(a_session("none", "c-none", namespace_id=None))
    clock.move(10)
    store.update_session("a", {"meta:m": "1"})
    assert listed(store, "u1") == [["a", "c", "b"]]
    assert listed(store, "u2") == [["x"]]
    assert listed(store, "nobody") == [[]]


def test_pages_follow_each_other_without_gap_or_repeat(store: Store, clock: Clock) -> None:
    for n in range(7):
        store.create_session(a_session(f"s{n}", f"c{n}"))
        clock.move(n % 2)
    pages = listed(store, "u1", 3)
    assert [len(page) for page in pages] == [3, 3, 1]
    flat = [name for page in pages for name in page]
    assert sorted(flat) == [f"s{n}" for n in range(7)]
    assert listed(store, "u1", 7) == [flat]


@pytest.mark.parametrize("after", ["", "x", "-1 s1", "1704123456789"])
def test_a_cursor_of_no_listing_is_refused_or_a_place(store: Store, after: str) -> None:
    store.create_session(a_session())
    if after == "1704123456789":
        assert store.sessions("u1", 10, after).sessions == []
    else:
        with pytest.raises(InvalidValue) as refused:
            store.sessions("u1", 10, after)
        assert "cursor" in refused.value.errors


def test_everyones_sessions_are_listed_for_hosts_without_owners(kind: Kind) -> None:
    store = kind.make(index_everyone=True) if kind.is_redis else kind.make()
    store.create_session(a_session("a", "c1", namespace_id="u1"))
    store.create_session(a_session("b", "c2", namespace_id=None))
    kind.clock.move(5)
    begin(store, a_session("c", "c3", namespace_id="u2"))
    assert [sorted(page) for page in listed(store, None)] == [["a", "b", "c"]]
    store.delete_session("c")
    assert [sorted(page) for page in listed(store, None)] == [["a", "b"]]
    assert listed(store, "u2") == [[]]


# Bounds


def test_a_full_namespace_takes_no_more_sessions_until_one_is_gone(make_store: MakeStore, clock: Clock) -> None:
    store = make_store(Limits(max_sessions_per_namespace=2))
    store.create_session(a_session("a", "c1"))
    begin(store, a_session("b", "c2"))
    with pytest.raises(NamespaceFull) as full:
        store.create_session(a_session("c", "c3"))
    assert full.value.retry_after >= 1
    with pytest.raises(NamespaceFull):
        begin(store, a_session("c", "c3"))
    assert store.session("c") is None
    assert store.snapshot("c3").sessions == {}
    store.create_session(a_session("d", "c4", namespace_id="u2"))
    store.create_session(a_session("a", "c1"))
    store.delete_session("a")
    store.create_session(a_session("c", "c3"))
    assert [sorted(page) for page in listed(store, "u1")] == [["b", "c"]]


def test_expired_sessions_do_not_fill_a_namespace(make_store: MakeStore, clock: Clock) -> None:
    store = make_store(Limits(max_sessions_per_namespace=1))
    store.create_session(a_session("a", "c1"))
    clock.move(TTL)
    store.create_session(a_session("b", "c2"))
    assert listed(store, "u1") == [["b"]]


def test_of_concurrent_creates_no_more_get_in_than_the_namespace_holds(make_store: MakeStore) -> None:
    store = make_store(Limits(max_sessions_per_namespace=3))
    results = at_once(*(lambda n=n: store.create_session(a_session(f"s{n}", f"c{n}")) for n in range(8)))  # type: ignore[misc]
    assert sum(isinstance(result, NamespaceFull) for result in results) == 5
    assert len(store.sessions("u1", 10, None).sessions) == 3


def test_a_refused_session_id_stays_free(make_store: MakeStore) -> None:
    store = make_store(Limits(max_sessions_per_namespace=1))
    store.create_session(a_session("a", "c1"))
    with pytest.raises(NamespaceFull):
        store.create_session(a_session("b", "c2"))
    store.create_session(a_session("b", "elsewhere", namespace_id="u2"))
    session = store.session("b")
    assert session is not None
    assert session.conversation_id == "elsewhere"


def test_healing_a_session_does_not_ask_for_a_place(make_store: MakeStore, kind: Kind) -> None:
    store = make_store(Limits(max_sessions_per_namespace=1))
    job = begin(store, a_session("a", "c1"))
    if kind.client is not None:
        kind.client.delete(*kind.client.keys("sessionstatus:*"))
        store.create_session(a_session("b", "c2"))
    else:
        job.store = store = make_store(Limits(max_sessions_per_namespace=1))
        store.create_session(a_session("b", "c2"))
    heal(job)
    assert [sorted(page) for page in listed(store, "u1")] == [["a", "b"]]


# Ids are opaque


def test_strange_conversation_ids_each_see_only_their_own(store: Store) -> None:
    jobs: dict[str, Job] = {}
    for n, name in enumerate(STRANGE_IDS):
        jobs[name] = begin(store, a_session(f"s{n}", name), a_task(f"t{n}"))
        jobs[name].append([name])
    for n, name in enumerate(STRANGE_IDS):
        snapshot = store.snapshot(name)
        assert (set(snapshot.sessions), set(snapshot.tasks)) == ({f"s{n}"}, {f"t{n}"})
        assert jobs[name].texts() == [name]
        assert snapshot.task(f"t{n}").conversation_id == name


def test_strange_session_and_task_ids_each_are_their_own(store: Store) -> None:
    for name in STRANGE_IDS:
        job = begin(store, a_session(name), a_task(name), "allow")
        job.append([name])
        store.add_turns(name, turns_of(name), {})
    snapshot = store.snapshot("c1")
    assert set(snapshot.sessions) == set(snapshot.tasks) == set(STRANGE_IDS)
    for name in STRANGE_IDS:
        session, turns, tasks = store.session(name), store.turns(name, None, 10), store.tasks(name, 10)
        assert session is not None
        assert session.session_id == name
        assert contents(turns) == [name]
        assert tasks is not None
        assert [task.task_id for task in tasks] == [name]
    assert store.delete_session("*") is True
    assert len(store.snapshot("c1").sessions) == len(STRANGE_IDS) - 1


def test_strange_namespaces_each_list_only_their_own(store: Store) -> None:
    for n, name in enumerate(STRANGE_IDS):
        store.create_session(a_session(f"s{n}", f"c{n}", namespace_id=name))
    for n, name in enumerate(STRANGE_IDS):
        assert listed(store, name) == [[f"s{n}"]]


@pytest.mark.parametrize("field", ["", "a:b", "*", "ключ", "deleted", "turns", "created", "record"])
def test_metadata_of_any_name_is_only_metadata(store: Store, field: str) -> None:
    store.create_session(a_session(metadata={field: "x"}))
    store.update_session("s1", {f"slot:{field}": '"y"'})
    session = store.session("s1")
    assert session is not None
    assert (session.metadata, session.current_slots, session.message_count) == ({field: "x"}, {field: "y"}, 0)


def test_a_page_of_an_unstarted_task_is_empty(store: Store) -> None:
    page = begin(store).page()
    assert page is not None
    assert (page.first, list(page.events), page.task.cursor) == (None, [], ORIGIN)


def test_a_turn_that_is_given_again_by_its_id_is_stored_once(store: Store, clock: Clock) -> None:
    store.create_session(a_session())
    first = store.add_turns("s1", [Turn("user", "a", turn_id="1"), Turn("assistant", "b", turn_id="2")], {})
    clock.move(1000)
    again = store.add_turns("s1", [Turn("user", "a", turn_id="1"), Turn("assistant", "b", turn_id="2")], {})
    assert again == first
    assert contents(store.turns("s1", None, 10)) == ["a", "b"]


def test_a_session_made_anew_under_an_expired_id_is_listed_and_holds_nothing_of_the_one_before(
    make_store: MakeStore, clock: Clock
) -> None:
    store = make_store(Limits(max_sessions_per_namespace=1))
    first = begin(store, a_session("s1"), a_task("old"))
    first.append(["x"])
    first.end(result="1")
    clock.move(TTL)
    begin(store, a_session("s1"), a_task("new"))
    with pytest.raises(NamespaceFull):
        store.create_session(a_session("s2", "c2"))
    assert listed(store, "u1") == [["s1"]]
    assert store.task("s1", "old") is None
    assert store.result("s1", "old") is None
    assert store.delete_session("s1") is True
    assert listed(store, "u1") == [[]]


def test_work_in_somebody_elses_session_takes_no_place_of_ones_own(make_store: MakeStore) -> None:
    store = make_store(Limits(max_sessions_per_namespace=1))
    store.create_session(a_session("theirs", "c1", namespace_id="u1"))
    begin(store, a_session("theirs", "c1", namespace_id="u2"), own=False)
    store.create_session(a_session("own", "c2", namespace_id="u2"))
    assert listed(store, "u2") == [["own"]]
