import re
import time
from contextlib import contextmanager

import pytest

from example_app import create_app


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


class Visitor:
    """A browser without a screen: it keeps its cookie and the conversation of the first page it opened."""

    def __init__(self, app):
        self.http = app.test_client()
        self.page = re.search(r'action="(/c/[^"]+)/text"', self.http.get("/").text)[1]
        self.conversation_id = self.page.rsplit("/", 1)[1]

    def submit(self, **form):
        return self.http.post(f"{self.page}/text", data=form, content_type="multipart/form-data")

    def ask(self, question):
        return self.http.post(f"{self.page}/questions", data={"question": question})

    def api(self, path, **options):
        return self.http.get(f"/api/v1/{path}", **options)

    def conversation(self, path):
        return self.api(f"conversations/{self.conversation_id}/{path}")

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
