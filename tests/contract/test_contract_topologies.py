"""Every topology, by its URI: two processes on it, wake-ups between them, and a user that may do no more than that."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis
from flask import Flask
from harness import a_session, at_once, begin
from topologies import PASSWORD, USER, AclGroup, ClusterGroup, TlsGroup, minimal_acl

from flask_sessionstatus import SessionStatus, StoreUnavailable
from flask_sessionstatus.stores.base import Limits
from flask_sessionstatus.stores.redis import RedisStore, connect

Group = Callable[[str], Any]
MakeApp = Callable[[str], tuple[Flask, SessionStatus]]


@pytest.fixture(params=["acl", "cluster", "sentinel", "socket", "tls"])
def uri(request: pytest.FixtureRequest, group: Group) -> str:
    address: str = group(request.param).uri
    return address


@pytest.fixture
def make_app() -> Iterator[MakeApp]:
    made: list[Flask] = []

    def make(uri: str) -> tuple[Flask, SessionStatus]:
        app = Flask("host")
        app.config["SESSIONSTATUS_STORAGE_URI"] = uri
        sessionstatus = SessionStatus(app, identify=lambda: "somebody")
        app.register_blueprint(sessionstatus.create_blueprint())
        made.append(app)
        return app, sessionstatus

    yield make
    for app in made:
        app.extensions["sessionstatus"].shutdown(1)


def store_at(uri: str, **options: Any) -> RedisStore:
    return RedisStore(connect(uri, options), Limits())


def test_one_process_works_and_another_follows_and_stops_it(uri: str, make_app: MakeApp) -> None:
    (app, sessionstatus), (other, _) = make_app(uri), make_app(uri)
    conversation_id = f"c {uuid4()}"
    with app.app_context(), sessionstatus.run(conversation_id, namespace_id="somebody") as run:
        run.emit("number", 0)
        stream = other.test_client().get(f"/conversations/{conversation_id}/stream", buffered=False)
        frames: list[bytes] = []
        first = threading.Event()

        def follow() -> None:
            for frame in stream.response:
                frames.append(frame)  # type: ignore[arg-type]
                first.set()

        reading = threading.Thread(target=follow, daemon=True)
        reading.start()
        assert first.wait(5)
        for number in range(1, 100):
            run.emit("number", number)
        run.wait_cancelled(0.05)
        asked = time.monotonic()
        assert other.test_client().post(f"/conversations/{conversation_id}/stop").status_code == 202
        assert run.wait_cancelled(5)
        assert time.monotonic() - asked < 1, "heard at the next beat, not when it was asked"
        run.check_cancelled()
    reading.join(5)
    seen = b"".join(frames).decode()
    assert [int(number) for number in re.findall(r"event: number\ndata: (\d+)", seen)] == list(range(100))
    assert '"state":"cancelled"' in seen.rstrip().split("\n\n")[-1]
    assert other.test_client().get("/health").status_code == 200


def test_a_client_that_does_not_trust_the_certificate_gets_no_answer(group: Group) -> None:
    tls: TlsGroup = group("tls")
    plain = tls.uri.partition("?")[0]
    for uri in (plain, plain.replace("rediss", "redis"), f"{tls.uri.replace('localhost', '127.0.0.2')}"):
        store = store_at(uri)
        with pytest.raises(StoreUnavailable):
            store.ping()
        store.close()
    store = store_at(plain, ssl_ca_certs=str(tls.certificate))
    store.ping()
    store.close()


def test_the_user_of_the_documentation_may_do_what_the_scripts_do_and_nothing_else() -> None:
    package = files("flask_sessionstatus.stores.redis")
    lua = "".join(each.read_text() for each in (package / "lua").iterdir())
    python = "".join(
        (package / f"{name}.py").read_text() for name in ("calls", "directory", "node", "store", "wakeups")
    )
    called = set(re.findall(r"redis\.call\('([A-Z]+)'", lua)) | set(re.findall(r'\("([A-Z]{3,})"', python)) | {"ASKING"}
    rules = [*minimal_acl(), *minimal_acl("acl cluster")]
    allowed = {rule[1:].upper() for rule in rules if rule.startswith("+")}
    assert allowed - {"CLUSTER|SLOTS"} == called


def test_that_user_reaches_no_other_keys_and_channels(group: Group) -> None:
    acl: AclGroup = group("acl")
    client = acl.processes[0].client_as(username=USER, password=PASSWORD)
    store = store_at(acl.uri)
    store.ping()
    for command in [("GET", "other"), ("KEYS", "*"), ("FLUSHALL",), ("PUBLISH", "other", "x"), ("CONFIG", "GET", "*")]:
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*command)
    other = RedisStore(connect(acl.uri, {}), Limits(), "other:")
    with pytest.raises(StoreUnavailable):
        other.create_session(a_session())
    for each in (store, other, client):
        each.close()


def test_a_user_that_may_not_ask_who_the_server_is_can_work_all_the_same(group: Group) -> None:
    acl: AclGroup = group("acl")
    admin = acl.processes[0].client
    admin.execute_command("ACL", "SETUSER", "modest", *minimal_acl(), "-info", "-role")
    store = store_at(acl.uri.replace(USER, "modest", 1))
    job = begin(store, a_session(str(uuid4()), str(uuid4())))
    job.append(["a", "b"])
    assert job.texts() == ["a", "b"]
    store.close()
    admin.execute_command("ACL", "DELUSER", "modest")


# Where keys lie


def test_the_conversations_of_a_cluster_lie_on_all_of_its_nodes(group: Group) -> None:
    cluster: ClusterGroup = group("cluster")
    store = store_at(cluster.uri)
    for number in range(30):
        begin(store, a_session(f"spread-{number}", f"spread-{number}")).append(["a"])
    assert len(store.sessions("u1", 50, None).sessions) >= 30
    with cluster.client() as client:
        assert all(found for found in client.everywhere("KEYS", "sessionstatus:{spread-*"))
    for number in range(30):
        store.delete_session(f"spread-{number}")
    store.close()


def test_the_key_that_a_script_names_beside_its_own_never_exists(group: Group) -> None:
    with group("cluster").client() as client:
        assert client.keys("*:never") == []


def test_a_node_of_a_cluster_that_is_addressed_as_one_server_says_what_is_wrong(
    group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    cluster: ClusterGroup = group("cluster")
    store = store_at(cluster.uri.replace("+cluster", "").partition(",")[0])
    said = [str(at_once(partial(store.snapshot, f"c{number}"))[0]) for number in range(10)]
    assert any("refused" in each for each in said)
    assert "MOVED" in caplog.text
    store.close()


def test_one_server_that_is_addressed_as_a_cluster_says_what_is_wrong(
    redis_url: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    store = store_at(redis_url("newest").replace("redis://", "redis+cluster://"))
    with pytest.raises(StoreUnavailable):
        store.snapshot("c1")
    assert "cluster support disabled" in caplog.text
    store.close()


def test_a_store_can_be_made_with_no_server_there(tmp_path: Path) -> None:
    for uri in (
        *("redis://127.0.0.1:1", f"unix://{tmp_path}/nothing.sock", "rediss://127.0.0.1:1"),
        *("redis+sentinel://127.0.0.1:1/main", "redis+cluster://127.0.0.1:1,127.0.0.1:2"),
    ):
        store = store_at(uri)
        began = time.monotonic()
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                store.snapshot("c1")
        assert time.monotonic() - began < 1
        store.close()
