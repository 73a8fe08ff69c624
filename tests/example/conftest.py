import math
import os
import re
import shutil
import threading
import time
from contextlib import contextmanager

import pytest
from example.pages import WAIT
from werkzeug.serving import make_server

from example_app import create_app
from example_app.telling import WORD, Telling

try:
    from playwright.sync_api import sync_playwright
except ImportError:
    sync_playwright = None

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def told(events):
    """The words of an answer."""
    return "".join(event["data"]["text"] for event in events if event["type"] == "token")


@pytest.fixture
def make_app(tmp_path):
    """Makes a host on the in-memory store that tells as fast as it can; all of a test's hosts share their documents."""
    apps = []

    def make(**config):
        app = create_app(
            {
                "TESTING": True,
                "SESSIONSTATUS_STORAGE_URI": "memory://",
                "EXAMPLE_DOCUMENTS": tmp_path / "documents",
                "EXAMPLE_TOKENS_PER_SECOND": 0,
                **config,
            }
        )
        apps.append(app)
        return app

    yield make
    for app in apps:
        with app.app_context():
            app.extensions["sessionstatus"].shutdown(5)


class Pace:
    """How far the background work gets with its telling: as far as a test lets it, however slow the machine is."""

    def __init__(self):
        self._condition = threading.Condition()
        self._words = math.inf

    def hold_after(self, *texts, words=0):
        """Hold what is told from now on after these texts and so many words more."""
        with self._condition:
            self._words = words + sum(len(WORD.findall(text)) for text in texts)

    def go_on(self, words=math.inf):
        """Let so many words more be told."""
        with self._condition:
            self._words += words
            self._condition.notify_all()

    def wait(self, run):
        with self._condition:
            while self._words < 1 and not run.cancelled:
                self._condition.wait(0.05)
            self._words -= 1


@pytest.fixture
def pace(monkeypatch):
    pace = Pace()
    monkeypatch.setattr(Telling, "_wait", lambda telling: pace.wait(telling.run))
    yield pace
    pace.go_on()


class Visitor:
    """A browser without a screen: it keeps its cookie and the conversation of the first page it opened."""

    FIRST_PAGE, FORM = "/", r'action="(/c/[^"]+)/text"'

    def __init__(self, app):
        self.http = app.test_client()
        self.page = re.search(self.FORM, self.http.get(self.FIRST_PAGE).text)[1]
        self.conversation_id = self.page.rsplit("/", 1)[1]

    def submit(self, **form):
        return self.http.post(f"{self.page}/text", data=form, content_type="multipart/form-data")

    def ask(self, question):
        return self.http.post(f"{self.page}/questions", data={"question": question})

    def api(self, path, **options):
        return self.http.get(f"/api/v1/{path}", **options)

    def conversation(self, path):
        return self.api(f"conversations/{self.conversation_id}/{path}")

    def stop(self):
        return self.http.post(f"/api/v1/conversations/{self.conversation_id}/stop")

    def session(self):
        return self.api(f"sessions/{self.session_id}").json

    def messages(self):
        return self.api(f"sessions/{self.session_id}/messages").json

    @property
    def session_id(self):
        return self.conversation("active-session").json["sessionId"]

    def events(self, started, until="end"):
        """The events of a task that was just started, up to the first of that type."""
        url, events, cursor = f"sessions/{started.json['sessionId']}/tasks/{started.json['taskId']}/events", [], "0-0"
        while not any(event["type"] == until for event in events):
            page = self.api(f"{url}?cursor={cursor}&wait=20").json
            events += page["events"]
            cursor = page["cursor"]
        return events


class Asker(Visitor):
    """A visitor of the assistant."""

    FIRST_PAGE, FORM = "/assistant", r'action="(/assistant/[^"]+)"'

    def begin(self, question):
        return self.http.post(self.page, data={"question": question})

    def converse(self, first, *others):
        """Asks the questions one after the other; the events of the last answer."""
        events = self.events(self.begin(first))
        for question in others:
            events = self.events(self.ask(question))
        return events


@pytest.fixture
def asker(make_app):
    return Asker(make_app())


@pytest.fixture
def visit():
    """Opens the first page of a host, as a browser that was never there before."""
    return Visitor


@pytest.fixture
def visitor(make_app, visit):
    return visit(make_app())


@pytest.fixture
def benchmark_seconds():
    """A context manager that fails when its block takes longer than that many seconds."""

    @contextmanager
    def within(seconds):
        began = time.perf_counter()
        yield
        assert time.perf_counter() - began < seconds

    return within


@pytest.fixture(scope="module")
def browser():
    missing = "Playwright for Python" if sync_playwright is None else "a chromium" if CHROMIUM is None else None
    if missing:
        (pytest.fail if os.environ.get("SESSIONSTATUS_REQUIRE_BROWSER") == "1" else pytest.skip)(
            f"The page is not tested: {missing} is missing."
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def storage_uri():
    """Where the host of the pages keeps its sessions."""
    return "memory://"


@pytest.fixture
def app(make_app, storage_uri):
    return make_app(SESSIONSTATUS_STORAGE_URI=storage_uri)


@pytest.fixture
def server(app):
    server = make_server("127.0.0.1", 0, app, threaded=True)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    app.config["EXAMPLE_TOKENS_PER_SECOND"] = 0
    server.shutdown()
    thread.join()


@pytest.fixture
def context(browser, server):
    """A browser of its own, in which no page may log an error that its test does not expect."""
    context = browser.new_context(base_url=server, viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    context.set_default_timeout(WAIT)
    errors = []
    context.on("weberror", lambda error: errors.append(str(error.error)))
    context.on("console", lambda message: errors.append(message.text) if "Content Security" in message.text else None)
    yield context
    context.close()
    assert errors == []
