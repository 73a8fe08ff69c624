"""What only Redis can show: unreadable records, calls that are repeated, servers that go away, several processes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

import pytest
import redis
from harness import LEASE_MS, LUA_CLOCK, Kind, a_session, a_task, at_once, begin, logged, once_available
from processes.client import wait_until
from servers import Proxy, Silent, free_port

from flask_sessionstatus.errors import RecordUnreadable, StoreUnavailable, TaskRunning
from flask_sessionstatus.models import TaskState, Turn
from flask_sessionstatus.stores.base import Append, Beat, Limits, Store, Tally, Verdict
from flask_sessionstatus.stores.bounds import STEP
from flask_sessionstatus.stores.redis import RedisStore, connect

GARBAGE = [b"", b"not json", b"[]", b"null", b"{}", b'{"v":1}', b'{"v":99}', b"\xff\xfe", b"[" * 100_000]


@pytest.fixture(params=["redis-6.2", "redis-7"])
def kind(request: pytest.FixtureRequest) -> Kind:
    url = request.getfixturevalue("redis_url")(request.param)
    return Kind(request.param, url)


@pytest.fixture
def client(kind: Kind) -> redis.Redis:
    assert kind.client is not None
    return kind.client


def key(conversation_id: str = "c1") -> str:
    return f"sessionstatus:{{{conversation_id}}}"


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda text: repr(text[:12]))
def test_an_unreadable_session_breaks_only_its_own_id(store: Store, client: redis.Redis, garbage: bytes) -> None:
    store.create_session(a_session("bad", "c1"))
    store.create_session(a_session("good", "c2"))
    client.hset(key(), "session:bad", garbage)
    with pytest.raises(RecordUnreadable):
        store.session("bad")
    assert store.session("good") is not None
    assert [session.session_id for session in store.sessions("u1", 10, None).sessions] == ["good"]
    assert store.totals().unreadable == 2


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda text: repr(text[:12]))
def test_an_unreadable_task_breaks_only_its_own_id(store: Store, client: redis.Redis, garbage: bytes) -> None:
    begin(store, a_session("bad", "c1"), a_task("t1"))
    good = begin(store, a_session("good", "c2"), a_task("t2"))
    client.hset(key(), "task:t1", garbage)
    with pytest.raises(RecordUnreadable):
        store.task("bad", "t1")
    assert store.task("good", "t2") is not None
    assert good.append(["a"]).verdict is Verdict.STORED
    assert "good" in [session.session_id for session in store.sessions("u1", 10, None).sessions]
    with pytest.raises(RecordUnreadable):
        store.snapshot("c1")
    assert set(store.snapshot("c2").tasks) == {"t2"}


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda text: repr(text[:12]))
def test_an_unreadable_session_leaves_its_neighbours_in_the_conversation(
    store: Store, client: redis.Redis, garbage: bytes
) -> None:
    store.create_session(a_session("bad", "c1"))
    job = begin(store, a_session("good", "c1"), a_task("t1"))
    client.hset(key(), "session:bad", garbage)
    with pytest.raises(RecordUnreadable):
        store.session("bad")
    session = store.session("good")
    assert session is not None
    assert session.session_id == "good"
    assert job.append(["a"]).verdict is Verdict.STORED
    assert [session.session_id for session in store.sessions("u1", 10, None).sessions] == ["good"]


def test_a_key_of_another_type_is_unreadable(
    store: Store, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    store.create_session(a_session())
    client.set(f"{key()}:session:s1:turns", "text")
    with pytest.raises(RecordUnreadable):
        store.turns("s1", None, 10)
    assert store.session("s1") is not None
    assert "cannot be read" in logged(caplog.records)


def test_an_unreadable_append_or_beat_leaves_the_others_of_its_call(store: Store, client: redis.Redis) -> None:
    bad, good = begin(store, a_session("s1", "c1"), a_task("t1")), begin(store, a_session("s2", "c2"), a_task("t2"))
    client.hset(key(), "task:t1", "garbage")
    events = [("token", "{}")]
    answers = store.append([Append(job.ref, 1, job.epoch, 0, 0, events) for job in (bad, good)])
    assert isinstance(answers[0], RecordUnreadable)
    assert answers[1].verdict is Verdict.STORED  # type: ignore[union-attr]
    beats = store.beat([Beat(job.ref, 1, job.epoch) for job in (bad, good)])
    assert isinstance(beats[0], RecordUnreadable)
    assert beats[1].verdict is Verdict.STORED  # type: ignore[union-attr]


def test_a_tally_of_an_unreadable_session_leaves_the_others_of_its_call(store: Store, client: redis.Redis) -> None:
    for name in ("bad", "good"):
        store.create_session(a_session(name, f"c-{name}"))
    client.hset(key("c-bad"), "session:bad", b"garbage")
    answers = store.tally([Tally(name, {"count:a": 1}, "w1", 1) for name in ("bad", "good")])
    assert isinstance(answers[0], RecordUnreadable)
    assert answers[1] is True


# Several processes


def test_a_process_counts_what_sessions_of_others_do(kind: Kind) -> None:
    first, second = kind.make(), kind.make()
    names = ("s1", "s2", "s3")
    for name in names:
        first.create_session(a_session(name, f"c-{name}"))
    # What it remembers may be out of date: the session was made again in another conversation.
    assert second.session("s1") is not None
    kind.clock.move(Limits().session_ttl)
    for name in names[:2]:
        first.create_session(a_session(name, f"d-{name}"))
    answers = second.tally([Tally(name, {"count:a": 1}, "w1", 1) for name in names])
    assert answers == [True, True, False]
    for name in names[:2]:
        session = first.session(name)
        assert session is not None
        assert session.counters == {"a": 1}


def test_what_one_process_writes_another_reads(kind: Kind) -> None:
    first, second = kind.make(), kind.make()
    job = begin(first)
    job.append(["a"])
    assert second.snapshot("c1").task("t1").tail == 1
    job.store = second
    assert job.append(["b"]).number == 2
    assert first.delete_session("s1")
    assert second.session("s1") is None
    assert job.append(["late"]).verdict is Verdict.DELETED


def test_a_session_id_that_was_made_again_elsewhere_is_found_there(kind: Kind) -> None:
    first, second = kind.make(), kind.make()
    first.create_session(a_session("s1", "c1"))
    assert second.session("s1") is not None
    kind.clock.move(Limits().session_ttl)
    first.create_session(a_session("s1", "c2"))
    session = second.session("s1")
    assert session is not None
    assert session.conversation_id == "c2"


def test_stores_with_other_prefixes_share_nothing(kind: Kind) -> None:
    first, second = kind.make(), kind.make(prefix="sessionstatus:other:")
    begin(first).append(["a"])
    first.record_duration("generation", 5)
    assert second.snapshot("c1").sessions == {}
    assert second.session("s1") is None
    assert second.sessions("u1", 10, None).sessions == []
    second.create_session(a_session(conversation_id="c9", namespace_id="u2"))
    session = first.session("s1")
    assert session is not None
    assert session.conversation_id == "c1"


def test_everything_of_a_conversation_lies_in_one_slot(kind: Kind, client: redis.Redis) -> None:
    store = kind.make()
    job = begin(store, a_session(conversation_id="a{b}c"), a_task(idempotency_key="k"))
    job.append(["a"])
    job.end(result="1")
    store.add_turns("s1", [Turn("user", "x", turn_id="1")], {})
    keys = [each.decode() for each in client.keys("sessionstatus:{*")]
    assert len(keys) >= 5
    assert {each[: each.index("}")] for each in keys} == {"sessionstatus:{a%7Bb%7Dc"}


def test_nothing_is_searched_for_among_the_keys(kind: Kind, client: redis.Redis) -> None:
    store = kind.make()
    before = client.info("commandstats")
    job = begin(store, if_running="replace")
    job.append(["a"])
    job.cancel()
    job.end(result="1")
    store.sessions("u1", 10, None)
    store.session("s1")
    store.tasks("s1", 5)
    store.delete_session("s1")
    used = {name for name, figures in client.info("commandstats").items() if figures != before.get(name)}
    assert not used & {"cmdstat_keys", "cmdstat_scan", "cmdstat_hscan", "cmdstat_sscan"}


def test_a_flushed_script_cache_costs_nothing(kind: Kind, client: redis.Redis) -> None:
    store = kind.make()
    job = begin(store)
    client.script_flush()
    assert job.append(["a"]).verdict is Verdict.STORED
    client.script_flush()
    assert job.beat().verdict is Verdict.STORED
    client.script_flush()
    assert job.texts() == ["a"]


# Repeated calls


@pytest.fixture
def proxy(kind: Kind) -> Iterator[Proxy]:
    assert kind.url is not None
    proxy = Proxy(int(kind.url.rpartition(":")[2].partition("/")[0]))
    yield proxy
    proxy.close()


def behind(proxy: Proxy, kind: Kind) -> RedisStore:
    """A store whose connections can be broken."""
    store = RedisStore(connect(proxy.url, {}), Limits(), clock=LUA_CLOCK, monotonic=kind.clock.monotonic)
    kind._made.append(store)
    return store


def test_turns_whose_answer_got_lost_are_stored_once(kind: Kind, proxy: Proxy) -> None:
    store = behind(proxy, kind)
    store.create_session(a_session())
    store.add_turns("s1", [Turn("user", "before", turn_id="0")], {})
    proxy.lose_next_answer()
    stored = store.add_turns("s1", [Turn("user", "a", turn_id="1"), Turn("assistant", "b", turn_id="2")], {})
    assert stored is not None
    assert [(turn.position, turn.content) for turn in stored] == [(1, "a"), (2, "b")]
    assert store.turns("s1", None, 10) == [*(store.turns("s1", 1, 10) or ()), *stored]
    session = store.session("s1")
    assert session is not None
    assert session.message_count == 3


def test_a_begin_whose_answer_got_lost_can_be_repeated_without_harm(kind: Kind, proxy: Proxy) -> None:
    store = behind(proxy, kind)
    task = a_task(token="k", idempotency_key="key")
    store.create_session(a_session())
    for answer in range(6):
        proxy.lose_next_answer(after=answer)
        while not proxy.lost:
            with suppress(StoreUnavailable):
                begin(store, task=task, if_running="reject")
    proxy.lose_nothing()
    job = once_available(lambda: begin(store, task=task, if_running="reject"))
    assert set(store.snapshot("c1").tasks) == {"t1"}
    assert job.append(["a"]).verdict is Verdict.STORED


def test_an_append_whose_answer_got_lost_can_be_repeated_without_harm(kind: Kind, proxy: Proxy) -> None:
    job = begin(behind(proxy, kind))
    proxy.lose_next_answer()
    with pytest.raises(StoreUnavailable):
        raise_first(job.store.append([Append(job.ref, 1, job.epoch, 0, 0, [("token", '{"text":"a"}')])]))
    assert job.append(["a", "b"], base=0).number == 2
    assert job.texts() == ["a", "b"]


def raise_first(answers: Sequence[object]) -> None:
    if isinstance(answers[0], Exception):
        raise answers[0]


# Outages


def nowhere() -> RedisStore:
    return RedisStore(connect(f"redis://:secret@127.0.0.1:{free_port()}/0", {}), Limits())


def test_a_server_that_is_away_is_unavailable_and_never_unknown() -> None:
    store = nowhere()
    job_calls = [
        lambda: store.ping(),
        lambda: store.snapshot("c1"),
        lambda: store.session("s1"),
        lambda: store.sessions("u1", 10, None),
        lambda: store.create_session(a_session()),
        lambda: store.update_session("s1", {"language": "de"}),
        lambda: store.delete_session("s1"),
        lambda: store.turns("s1", None, 10),
        lambda: begin(store),
        lambda: store.task("s1", "t1"),
        lambda: store.record_duration("x", 1),
        lambda: store.touch(["s1"]),
        lambda: store.tally([Tally("s1", {"accesses": 1}, "w1", 1)]),
    ]
    for call in job_calls:
        with pytest.raises(StoreUnavailable):
            call()
    store.close()


def test_the_first_failure_is_logged_once_and_holds_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    store = nowhere()
    with caplog.at_level(logging.DEBUG):
        for _ in range(3):
            with pytest.raises(StoreUnavailable) as away:
                store.snapshot("c1")
            assert "secret" not in str(away.value)
    assert logged(caplog.records).count("The store is unavailable") == 1
    assert "secret" not in logged(caplog.records)
    store.close()


def test_after_an_outage_expired_leases_read_as_live_for_one_lease(kind: Kind, proxy: Proxy) -> None:
    steady, web = kind.make(), behind(proxy, kind)
    begin(steady)
    assert web.snapshot("c1").task("t1").state is TaskState.RUNNING
    proxy.cut()
    with pytest.raises(StoreUnavailable):
        web.snapshot("c1")
    kind.clock.move(LEASE_MS + 5000)
    proxy.mend()
    assert steady.snapshot("c1").task("t1").state is TaskState.LOST
    assert web.snapshot("c1").task("t1").state is TaskState.RUNNING
    assert web.recovering
    kind.clock.move(LEASE_MS + 1)
    web.snapshot("c1")
    assert not web.recovering
    assert web.snapshot("c1").task("t1").state is TaskState.LOST


@pytest.mark.parametrize("if_running", ["reject", "replace"])
def test_after_an_outage_what_reads_as_live_is_in_the_way_of_what_begins(
    kind: Kind, proxy: Proxy, if_running: str
) -> None:
    steady, web = kind.make(), behind(proxy, kind)
    first = begin(steady, task=a_task("t1", idempotency_key="k"))
    web.snapshot("c1")
    proxy.cut()
    with pytest.raises(StoreUnavailable):
        web.snapshot("c1")
    kind.clock.move(LEASE_MS + 5000)
    proxy.mend()
    if if_running == "reject":
        with pytest.raises(TaskRunning):
            begin(web, a_session("s2"), a_task("t2"), "reject")
    else:
        assert begin(web, a_session("s2"), a_task("t2"), "replace").begun.stopping == ["t1"]
        assert first.beat().verdict is Verdict.CLOSED
    kind.clock.move(LEASE_MS + 1)
    web.snapshot("c1")
    assert begin(web, a_session("s3"), a_task("t3"), "reject").task.state is TaskState.RUNNING


def test_each_break_of_the_wakeups_is_told_once(kind: Kind, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    stands = threading.Event()
    wakeups = behind(proxy, kind).wakeups(lambda *_: stands.set())
    for number in (1, 2, 3):
        assert stands.wait(5)
        proxy.cut()
        wait_until(lambda number=number: logged(caplog.records).count("Wake-ups are broken") >= number, 5, "a warning")
        stands.clear()
        proxy.mend()
    assert stands.wait(5)
    assert logged(caplog.records).count("Wake-ups are broken") == 3
    wakeups.close()


def test_very_many_channels_are_heard_of_again_a_bounded_number_at_a_time(
    kind: Kind, proxy: Proxy, client: redis.Redis
) -> None:
    stands = threading.Event()
    heard: list[str] = []

    def on_wakeup(channel: str, _: bytes | None) -> None:
        if channel:
            heard.append(channel)
        else:
            stands.set()

    wakeups = behind(proxy, kind).wakeups(on_wakeup)
    assert stands.wait(5)
    for number in range(2 * STEP + 1):
        wakeups.watch(f"sessionstatus:{{c1}}:task:t{number}")
    wait_until(lambda: len(heard) == 2 * STEP + 1, 5, "all channels")
    stands.clear()
    before = client.info("commandstats")["cmdstat_subscribe"]["calls"]
    proxy.cut()
    proxy.mend()
    assert stands.wait(5)
    assert client.info("commandstats")["cmdstat_subscribe"]["calls"] == before + 3
    client.publish(f"sessionstatus:{{c1}}:task:t{2 * STEP}", b"")
    wait_until(lambda: heard[-1] == f"sessionstatus:{{c1}}:task:t{2 * STEP}", 5, "a wake-up")
    wakeups.close()


def test_after_an_outage_it_is_recovering_for_two_heartbeats(kind: Kind, proxy: Proxy) -> None:
    web = behind(proxy, kind)
    web.ping()
    assert not web.recovering
    proxy.cut()
    with pytest.raises(StoreUnavailable):
        web.ping()
    assert not web.recovering
    proxy.mend()
    web.ping()
    assert web.recovering
    kind.clock.move(2 * Limits().heartbeat)
    assert not web.recovering


def test_a_server_that_never_answers_is_unavailable_within_a_second() -> None:
    with Silent() as silent:
        store = RedisStore(connect(silent.url, {}), Limits())
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store.snapshot("c1")
        assert time.monotonic() - began < 1.5
        store.close()


def test_a_crowd_that_waits_for_a_connection_is_no_outage(redis_kind: Kind) -> None:
    assert redis_kind.url is not None
    store = RedisStore(connect(redis_kind.url, {"max_connections": 1, "timeout": 0.05}), Limits())
    assert redis_kind.client is not None
    redis_kind.client.client_pause(300)
    first, second = at_once(lambda: store.snapshot("c1"), lambda: store.snapshot("c1"))
    crowded = first if isinstance(first, Exception) else second
    assert isinstance(crowded, StoreUnavailable)
    assert "wait" in str(crowded)
    assert store.snapshot("c1").sessions == {}
    assert not store.recovering
    store.close()
