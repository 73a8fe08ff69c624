from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from clients.host import Host
from clients.node import JS, Script
from clients.relay import Relay

import flask_sessionstatus
from flask_sessionstatus.streaming import frames

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PACKAGES = Path(__file__).with_name("package.json")
CLIENT = Path(flask_sessionstatus.__file__).parent / "http" / "static" / "client.js"
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
OLDEST_NODE = {"client.js": 18, "npm": 20}
INSTALL = ["install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
INSTALL_WAIT, BUNDLE_WAIT = 120, 60
RETRY_MS = 30
PAGE_WAIT = 30_000


def without(what: str) -> NoReturn:
    """Skip, or fail where nothing may be missing."""
    message = f"Clients are not tested: {what}."
    if os.environ.get("SESSIONSTATUS_REQUIRE_BROWSER") == "1":
        pytest.fail(message)
    pytest.skip(message)


def node_of(version: int) -> str:
    node = shutil.which("node")
    if node is None:
        without("node is missing")
    said = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    found = re.match(r"v(\d+)", said)
    if found is None or int(found[1]) < version:
        without(f"node {version} or later is missing")
    return node


@pytest.fixture(scope="session")
def node() -> str:
    return node_of(OLDEST_NODE["client.js"])


@pytest.fixture(scope="session")
def packages(request: pytest.FixtureRequest) -> Path:
    """A folder with the npm packages of package.json and the scripts; it is kept in pytest's cache."""
    node_of(OLDEST_NODE["npm"])
    npm = shutil.which("npm")
    if npm is None:
        without("npm is missing")
    name = f"clients-{hashlib.sha256(PACKAGES.read_bytes()).hexdigest()[:12]}"
    cache = getattr(request.config, "cache", None)
    folder: Path = cache.mkdir(name) if cache else request.getfixturevalue("tmp_path_factory").mktemp(name)
    done = folder / "installed"
    with alone_in(folder):
        if not done.exists():
            shutil.rmtree(folder / "node_modules", ignore_errors=True)
            shutil.copy(PACKAGES, folder)
            try:
                subprocess.run([npm, *INSTALL], cwd=folder, capture_output=True, timeout=INSTALL_WAIT, check=True)
            except subprocess.SubprocessError as error:
                without(f"npm install did not succeed ({type(error).__name__})")
            done.touch()
        for script in JS.iterdir():
            shutil.copy(script, folder / f"{script.name}.new")
            os.replace(folder / f"{script.name}.new", folder / script.name)
    return folder


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Only one of the processes that run tests side by side changes what they share; it replaces files as a whole."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def bundle(packages: Path) -> Path:
    """The page of the AI SDK, bundled."""
    options = ["--bundle", "--format=esm", '--define:process.env.NODE_ENV="production"', "--outfile=new/bundle.js"]
    command = [node_of(OLDEST_NODE["npm"]), "node_modules/esbuild/bin/esbuild", "chat.mjs", *options]
    with alone_in(packages):
        subprocess.run(command, cwd=packages, capture_output=True, timeout=BUNDLE_WAIT, check=True)
        os.replace(packages / "new" / "bundle.js", packages / "bundle.js")
    return packages / "bundle.js"


@pytest.fixture
def quick_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients are told to come back at once: fifty times a second each would be most of these tests."""
    monkeypatch.setattr(frames, "RETRY_MS", RETRY_MS)


@pytest.fixture
def make_host(request: pytest.FixtureRequest, quick_retry: None) -> Iterator[Callable[..., Host]]:
    hosts: list[Host] = []

    def make(**config: Any) -> Host:
        hosts.append(Host(lambda: request.getfixturevalue("bundle"), **config))
        return hosts[-1]

    yield make
    for host in hosts:
        host.close()


@pytest.fixture
def host(make_host: Callable[..., Host]) -> Host:
    return make_host()


@pytest.fixture
def relay(host: Host) -> Iterator[Relay]:
    relay = Relay(host.port)
    yield relay
    relay.close()


@pytest.fixture
def script() -> Iterator[Callable[..., Script]]:
    running: list[Script] = []

    def start(*arguments: Any, **options: Any) -> Script:
        running.append(Script(*arguments, **options))
        return running[-1]

    yield start
    for each in running:
        each.close()


@pytest.fixture
def follow(node: str, relay: Relay, script: Callable[..., Script]) -> Callable[..., Script]:
    """Follows a conversation with client.js in node, by way of the relay."""

    def start(conversation_id: str = "c1", **options: Any) -> Script:
        options.setdefault("baseUrl", f"{relay.url}/api/v1")
        return script(node, JS / "follow.mjs", str(CLIENT), conversation_id, options)

    return start


# For a module only: while it is there, its event loop is the main thread's, and nothing else there can run one.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        without("Playwright for Python is missing")
    if executable is None:
        without("Chromium is missing")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, relay: Relay) -> Iterator[Page]:
    """A page of the host, by way of the relay; no error of its scripts may go uncaught."""
    errors: list[str] = []
    with browser.new_context() as context:
        context.on("weberror", lambda error: errors.append(str(error.error)))
        page = context.new_page()
        page.set_default_timeout(PAGE_WAIT)
        page.goto(f"{relay.url}/page")
        yield page
    assert errors == []
