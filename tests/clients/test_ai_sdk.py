"""npm's `ai`: its transport and `useChat({resume: true})` resume what runs, with no setting but where the API is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from clients.conftest import node_of
from clients.host import PREFIX, Generation, Host
from clients.node import Script
from clients.relay import Relay

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHAT = "chat 1:*?[%]#&+ü"

Transport = Callable[..., Script]


@pytest.fixture
def transport(packages: Path, relay: Relay, script: Callable[..., Script]) -> Transport:
    def start(chat_id: str = CHAT) -> Script:
        arguments = packages / "transport.mjs", f"{relay.url}{PREFIX}/conversations", chat_id
        return script(node_of(20), *arguments, folder=packages)

    return start


def parts(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line["part"] for line in lines if line["on"] == "part"]


def text(parts: list[dict[str, Any]]) -> str:
    return "".join(part["delta"] for part in parts if part["type"] == "text-delta")


def begin(host: Host, **options: Any) -> Generation:
    return host.generate(CHAT, wire="ai-sdk", **options)


def test_the_transport_reads_a_live_task_from_its_first_part_to_its_last(host: Host, transport: Transport) -> None:
    generation = begin(host, count=40, pause=0.01, hold=0)
    reading = transport()
    reading.wait(lambda: reading.of("open"), "it is connected")
    generation.go.set()
    told = parts(reading.finish())
    assert text(told) == generation.text
    assert [part["type"] for part in told if part["type"] != "text-delta"] == [
        "start",
        "text-start",
        "text-end",
        "finish",
    ]


def test_the_transport_reads_all_of_a_task_that_is_half_finished(host: Host, transport: Transport) -> None:
    generation = begin(host, count=40, hold=20)
    reading = transport()
    reading.wait(lambda: len(reading.of("part")) == 22, "what there is")
    generation.go.set()
    assert text(parts(reading.finish())) == generation.text


@pytest.mark.parametrize("finished", [False, True], ids=["unknown", "finished"])
def test_where_nothing_runs_there_is_nothing_to_resume(host: Host, transport: Transport, finished: bool) -> None:
    if finished:
        begin(host)
        host.join()
    assert transport().finish() == [{"on": "nothing"}]
    assert host.streams()[-1].status == 204


def test_an_error_is_an_error_part(host: Host, transport: Transport) -> None:
    generation = begin(host, hold=5, fails=True)
    reading = transport()
    reading.wait(lambda: reading.of("part"), "what there is")
    generation.go.set()
    assert parts(reading.finish())[-1] == {"type": "error", "errorText": "The model is gone."}


def test_a_cancelled_task_is_an_abort_part(host: Host, transport: Transport) -> None:
    begin(host, hold=5)
    reading = transport()
    reading.wait(lambda: reading.of("part"), "what there is")
    path = f"{PREFIX}/conversations/{quote(CHAT, safe='')}/stop"
    assert host.app.test_client().post(path).status_code == 202
    assert parts(reading.finish())[-1] == {"type": "abort"}


def test_a_gap_is_a_part_that_it_accepts(make_host: Callable[..., Host], request: pytest.FixtureRequest) -> None:
    host = make_host(MAX_EVENTS=10)
    relay = Relay(host.port)
    try:
        generation = begin(host, count=40, hold=30)
        script = request.getfixturevalue("script")
        packages = request.getfixturevalue("packages")
        api = f"{relay.url}{PREFIX}/conversations"
        reading = script(node_of(20), packages / "transport.mjs", api, CHAT, folder=packages)
        reading.wait(lambda: len(reading.of("part")) > 1, "what there is")
        generation.go.set()
        told = parts(reading.finish())
    finally:
        relay.close()
    assert (told[0]["type"], told[0]["transient"], told[0]["data"]["requested"]) == ("data-gap", True, "0-0")
    assert 0 < len(text(told)) < len(generation.text)
    assert told[-1] == {"type": "finish"}


# useChat


def open_chat(page: Page) -> None:
    page.add_script_tag(url="/bundle.js", type="module")
    page.evaluate("id => open_chat(id)", CHAT)


def shows(page: Page, text: str) -> None:
    page.wait_for_function("text => chat.text === text", arg=text)


def chat_of(page: Page, status: str) -> dict[str, Any]:
    page.wait_for_function("status => chat.status === status && chat.finished.length", arg=status)
    chat: dict[str, Any] = page.evaluate("chat")
    return chat


@pytest.mark.browser
@pytest.mark.parametrize("hold", [0, 20], ids=["live", "half-finished"])
def test_use_chat_resumes(host: Host, page: Page, hold: int) -> None:
    generation = begin(host, count=40, hold=hold)
    open_chat(page)
    shows(page, "".join(generation.tokens[:hold]))
    page.wait_for_function("chat.status === 'streaming'")
    generation.go.set()
    chat = chat_of(page, "ready")
    assert (chat["text"], chat["messages"], chat["error"]) == (generation.text, 1, None)
    assert chat["finished"] == [{"id": "answer", "isError": False}]


@pytest.mark.browser
def test_use_chat_is_ready_where_nothing_runs(host: Host, page: Page) -> None:
    begin(host)
    host.join()
    open_chat(page)
    page.wait_for_function("chat.status === 'ready'")
    assert page.evaluate("[chat.messages, chat.error]") == [0, None]


@pytest.mark.browser
def test_use_chat_shows_a_failed_task_as_an_error(host: Host, page: Page) -> None:
    generation = begin(host, hold=5, fails=True)
    open_chat(page)
    shows(page, "".join(generation.tokens[:5]))
    generation.go.set()
    chat = chat_of(page, "error")
    assert (chat["error"], chat["text"]) == ("The model is gone.", generation.text)


@pytest.mark.browser
def test_stop_of_use_chat_is_only_a_disconnect(host: Host, page: Page) -> None:
    generation = begin(host, hold=5)
    open_chat(page)
    shows(page, "".join(generation.tokens[:5]))
    page.evaluate("chat.stop()")
    page.wait_for_function("chat.status === 'ready'")
    assert generation.run is not None
    assert not generation.run.cancelled
    generation.go.set()
    host.join()
    assert page.evaluate("chat.text") == "".join(generation.tokens[:5])


@pytest.mark.browser
def test_use_chat_goes_to_rest_when_its_task_is_cancelled(host: Host, page: Page) -> None:
    generation = begin(host, hold=5)
    open_chat(page)
    shows(page, "".join(generation.tokens[:5]))
    page.evaluate("id => fetch(`/api/v1/conversations/${encodeURIComponent(id)}/stop`, {method: 'POST'})", CHAT)
    chat = chat_of(page, "ready")
    assert (chat["text"], chat["error"]) == ("".join(generation.tokens[:5]), None)
