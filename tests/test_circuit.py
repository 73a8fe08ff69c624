"""A circuit and a pool by themselves: who may ask a server that was away, and who waits for a connection."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from harness import at_once

from flask_sessionstatus.stores.redis.circuit import FIRST_PAUSE, MAX_PAUSE, Circuit, Refused
from flask_sessionstatus.stores.redis.pool import Pool

pytestmark = pytest.mark.core


class Now:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def circuit(now: Now) -> Circuit:
    return Circuit(now, lambda: 1.0)


def test_a_closed_circuit_lets_everybody_through(circuit: Circuit) -> None:
    assert [circuit.enter() for _ in range(3)] == [False] * 3
    assert not circuit.is_open


def test_after_one_failure_the_next_call_is_a_trial_at_once_and_the_only_one(circuit: Circuit) -> None:
    circuit.failed(trial=False)
    assert circuit.is_open
    assert not circuit.refuses
    assert circuit.enter()
    assert circuit.refuses
    with pytest.raises(Refused):
        circuit.enter()


def test_a_trial_that_succeeds_closes_it_for_all(circuit: Circuit) -> None:
    circuit.failed(trial=False)
    circuit.enter()
    circuit.answered()
    assert not circuit.enter()


def test_failed_trials_come_at_growing_intervals_up_to_a_bound(circuit: Circuit, now: Now) -> None:
    circuit.failed(trial=False)
    pauses = []
    for _ in range(8):
        assert circuit.enter()
        circuit.failed(trial=True)
        began = now.seconds
        while circuit.refuses:
            now.seconds += 0.001
        pauses.append(round(now.seconds - began, 2))
    assert pauses == [0.05, 0.1, 0.2, *[0.25] * 5]
    assert (pauses[0], pauses[-1]) == (FIRST_PAUSE, MAX_PAUSE)


def test_calls_that_were_under_way_when_it_opened_change_nothing(circuit: Circuit) -> None:
    for _ in range(16):
        circuit.failed(trial=False)
    assert circuit.enter()


def test_an_answer_to_a_call_that_was_under_way_closes_it(circuit: Circuit) -> None:
    circuit.failed(trial=False)
    circuit.enter()
    circuit.failed(trial=True)
    circuit.answered()
    assert not circuit.refuses
    assert not circuit.is_open


def test_a_trial_that_is_broken_off_leaves_its_place_to_the_next(circuit: Circuit) -> None:
    circuit.failed(trial=False)
    assert circuit.enter()
    circuit.left(trial=True)
    assert circuit.enter()


def test_intervals_are_jittered() -> None:
    seen = set()
    for _ in range(20):
        circuit = Circuit()
        circuit.failed(trial=False)
        circuit.failed(trial=circuit.enter())
        seen.add(round(circuit._due - time.monotonic(), 4))
    assert len(seen) > 5
    assert all(0 < each <= FIRST_PAUSE for each in seen)


# Connections


class Connection:
    def __init__(self) -> None:
        self.connected = True

    def disconnect(self) -> None:
        self.connected = False


def connection() -> Any:
    return Connection()


def test_the_connection_that_was_used_last_is_taken_first() -> None:
    pool = Pool(3)
    assert pool.take(0) is None
    used, other = connection(), connection()
    pool.give_back(other)
    pool.take(0)
    pool.take(0)
    pool.give_back(other)
    pool.give_back(used)
    assert pool.take(0) is used


def test_whoever_finds_no_place_waits_for_one_and_not_for_ever() -> None:
    pool = Pool(1)
    pool.take(0)
    with pytest.raises(TimeoutError):
        pool.take(0.01)
    freed = connection()
    threading.Timer(0.05, pool.give_back, [freed]).start()
    assert pool.take(5) is freed


def test_no_place_gets_lost_in_a_crowd() -> None:
    pool = Pool(3)

    def use() -> None:
        for _ in range(200):
            pool.give_back(pool.take(5) or connection())

    assert at_once(*[use] * 12) == [None] * 12
    assert len({id(pool.take(0)) for _ in range(3)} - {id(None)}) <= 3
    with pytest.raises(TimeoutError):
        pool.take(0)


def test_clearing_closes_what_is_idle_and_keeps_the_places() -> None:
    pool = Pool(2)
    idle, used = connection(), connection()
    pool.take(0)
    pool.give_back(idle)
    pool.clear()
    assert not idle.connected
    assert (pool.take(0), pool.take(0)) == (None, None)
    pool.give_back(used)
    assert used.connected
