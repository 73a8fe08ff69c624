"""Bad input: exact statuses, fields named, and nothing changed."""

from __future__ import annotations

from typing import Any

import pytest
from hosts import Host, MakeHost

WRITES = [("POST", "/sessions"), ("PATCH", "/sessions/s1"), ("POST", "/sessions/s1/messages")]
GOOD = {"/sessions": "{}", "/sessions/s1": "{}", "/sessions/s1/messages": '{"role":"user","content":"x"}'}


@pytest.fixture
def host(make_host: MakeHost) -> Host:
    host = make_host(max_body_bytes=2000)
    host.session()
    return host


def unchanged(host: Host) -> None:
    session = host.store.session("s1")
    assert (session.metadata, session.language, session.message_count) == ({}, "nl", 0)
    assert [each.session_id for each in host.store.sessions("u1", 10, None).sessions] == ["s1"]


def send(host: Host, method: str, path: str, body: bytes | str, content_type: str = "application/json") -> Any:
    return host.request(method, path, data=body, content_type=content_type)


@pytest.mark.parametrize(("method", "path"), WRITES)
@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"not json",
        b'{"metadata": NaN}',
        b'{"metadata": {"a": Infinity}}',
        b"\xff\xfe",
        b'{"language": "\xff"}',
        b"[" * 1900,
        b'{"a":' * 380,
        b"{} {}",
        b"'single'",
    ],
    ids=repr,
)
def test_what_is_no_json_is_400(host: Host, method: str, path: str, body: bytes) -> None:
    response = send(host, method, path, body)
    assert response.status_code == 400
    assert set(response.json) == {"error"}
    unchanged(host)


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_json_that_is_nested_too_deep_is_400(make_host: MakeHost, method: str, path: str) -> None:
    host = make_host()
    host.session()
    response = send(host, method, path, b"[" * 100_000 + b"]" * 100_000)
    assert response.status_code == 400
    unchanged(host)


@pytest.mark.parametrize(("method", "path"), WRITES)
@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_another_content_type_is_415(host: Host, method: str, path: str, content_type: str) -> None:
    response = send(host, method, path, GOOD[path] + " ", content_type)
    assert response.status_code == 415
    assert set(response.json) == {"error"}
    unchanged(host)


@pytest.mark.parametrize(("method", "path"), WRITES)
@pytest.mark.parametrize("chunked", [False, True])
def test_too_large_a_body_is_413(host: Host, method: str, path: str, chunked: bool) -> None:
    body = GOOD[path] + " " * 2000
    options: dict[str, Any] = {"data": body, "content_type": "application/json"}
    if chunked:
        options["environ_overrides"] = {
            "CONTENT_LENGTH": "",
            "wsgi.input_terminated": True,
            "HTTP_TRANSFER_ENCODING": "chunked",
        }
    response = host.request(method, path, **options)
    assert response.status_code == 413
    assert set(response.json or ()) == {"error"}
    unchanged(host)


@pytest.mark.parametrize(("method", "path"), WRITES)
@pytest.mark.parametrize("body", ["[]", "7", '"x"', "null", "true"])
def test_json_that_is_no_object_is_422(host: Host, method: str, path: str, body: str) -> None:
    response = send(host, method, path, body)
    assert response.status_code == 422
    assert response.json["errors"]
    unchanged(host)


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_a_lone_surrogate_is_422(host: Host, method: str, path: str) -> None:
    body = '{"role":"user","content":"\\ud800"}' if path.endswith("messages") else '{"metadata":{"a":"\\ud800"}}'
    response = send(host, method, path, body)
    assert response.status_code == 422
    unchanged(host)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/sessions", {"unknown": 1}, "unknown"),
        ("/sessions", {"metadata": []}, "metadata"),
        ("/sessions", {"metadata": "x"}, "metadata"),
        ("/sessions", {"metadata": None}, "metadata"),
        ("/sessions", {"conversationId": 7}, "conversationId"),
        ("/sessions", {"conversationId": ""}, "conversationId"),
        ("/sessions", {"conversationId": ".."}, "conversationId"),
        ("/sessions", {"conversationId": "a/b"}, "conversationId"),
        ("/sessions", {"conversationId": "a\nb"}, "conversationId"),
        ("/sessions", {"conversationId": "x" * 257}, "conversationId"),
        ("/sessions", {"deviceType": {}}, "deviceType"),
        ("/sessions", {"deviceType": "x" * 257}, "deviceType"),
        ("/sessions", {"language": ""}, "language"),
        ("/sessions", {"clientVersion": "a\nb"}, "clientVersion"),
        ("/sessions/s1", {"metadata": 1}, "metadata"),
        ("/sessions/s1", {"language": 1}, "language"),
        ("/sessions/s1", {"status": "closed"}, "status"),
        ("/sessions/s1", {"namespaceId": "u2"}, "namespaceId"),
        ("/sessions/s1/messages", {"role": "user"}, "content"),
        ("/sessions/s1/messages", {"role": "user", "content": None}, "content"),
        ("/sessions/s1/messages", {"role": "user", "content": ["x"]}, "content"),
        ("/sessions/s1/messages", {"role": "boss", "content": "x"}, "role"),
        ("/sessions/s1/messages", {"role": "user", "content": "x", "slots": []}, "slots"),
        ("/sessions/s1/messages", {"role": "user", "content": "x", "position": 0}, "position"),
        ("/sessions/s1/messages", {"role": "user", "content": "x", "timestamp": 0}, "timestamp"),
        ("/sessions/s1/messages", {"role": "user", "content": "x", "turnId": "1"}, "turnId"),
        ("/sessions/s1/messages", {"role": "user", "content": "x", "templateId": 1}, "templateId"),
    ],
)
def test_wrong_and_unknown_fields_are_422_and_named(host: Host, path: str, body: dict[str, Any], field: str) -> None:
    method = next(method for method, each in WRITES if each == path)
    response = host.request(method, path, json=body)
    assert response.status_code == 422
    assert response.json is not None
    assert list(response.json["errors"]) == [field]
    assert all(isinstance(text, str) for text in response.json["errors"][field])
    unchanged(host)


def test_a_repeated_key_is_taken_as_json_takes_it(host: Host) -> None:
    response = send(host, "PATCH", "/sessions/s1", '{"language":"de","language":"fr"}')
    assert response.status_code == 200
    assert response.json["language"] == "fr"


def test_a_body_of_white_space_is_empty(host: Host) -> None:
    assert send(host, "POST", "/sessions", "  \n ").status_code == 201


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "application/vnd.host+json"])
def test_other_json_types_are_json(host: Host, content_type: str) -> None:
    assert send(host, "PATCH", "/sessions/s1", '{"language":"de"}', content_type).status_code == 200


def test_an_unreadable_body_for_an_unknown_session_is_404_first(host: Host) -> None:
    assert send(host, "POST", "/sessions/s9/messages", "{").status_code == 404


def test_numbers_beyond_ieee_doubles_change_nothing(host: Host) -> None:
    response = send(host, "PATCH", "/sessions/s1", '{"metadata":{"a":1e999}}')
    assert response.status_code in (400, 422)
    unchanged(host)
