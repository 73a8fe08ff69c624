from __future__ import annotations

import threading

from flask_sessionstatus.stops import Stop

RACES = 2_000


def test_each_callback_is_called_once_whoever_comes_first() -> None:
    for _ in range(RACES):
        stop, barrier, heard = Stop(), threading.Barrier(2), []

        def request() -> None:
            barrier.wait(10)  # noqa: B023
            stop.request()  # noqa: B023

        thread = threading.Thread(target=request)
        thread.start()
        barrier.wait(10)
        stop.on_request(lambda: heard.append(1))  # noqa: B023
        thread.join(10)
        assert heard == [1]


def test_a_request_that_is_made_again_tells_nobody_anew() -> None:
    stop = Stop()
    heard: list[int] = []
    stop.on_request(lambda: heard.append(1))
    stop.request()
    stop.request()
    assert heard == [1]


def test_who_is_forgotten_is_not_called() -> None:
    stop = Stop()
    heard: list[int] = []
    stop.on_request(lambda: heard.append(1))
    stop.forget()
    stop.request()
    assert stop.requested
    assert heard == []


def test_a_callback_that_exits_keeps_no_other_from_being_called() -> None:
    def leave() -> None:
        raise SystemExit

    stop = Stop()
    heard: list[int] = []
    stop.on_request(leave)
    stop.on_request(lambda: heard.append(1))
    stop.request()
    assert heard == [1]
