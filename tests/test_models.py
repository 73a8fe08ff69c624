from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_sessionstatus import Cursor, TaskState
from flask_sessionstatus.errors import InvalidValue
from flask_sessionstatus.models import ORIGIN, check_event_type, check_id, namespace_of, to_json

GOOD_IDS = [
    "a",
    "*",
    "a:b",
    "[x]",
    "%2e",
    "...",
    "two words",
    "ключ",
    "x" * 256,
    "é" * 128,
    "conversation:user123:msg456",
]
BAD_IDS: list[Any] = [
    "",
    ".",
    "..",
    "a/b",
    "/",
    "a\nb",
    "\x00",
    "\x7f",
    "\ufffd",
    "\ud800",
    "\u200b",
    "x" * 257,
    "é" * 129,
]


@pytest.mark.parametrize("value", GOOD_IDS)
def test_an_id_is_any_printable_text_without_a_slash(value: str) -> None:
    assert check_id(value, "sessionId") == value


@pytest.mark.parametrize("value", [*BAD_IDS, 7, None, b"a"], ids=lambda value: ascii(value)[:20])
def test_anything_else_is_no_id_and_the_error_names_the_field(value: Any) -> None:
    with pytest.raises(InvalidValue) as refused:
        check_id(value, "sessionId")
    assert list(refused.value.errors) == ["sessionId"]


def test_a_namespace_is_a_text_a_number_or_a_uuid() -> None:
    assert namespace_of("u1") == "u1"
    assert namespace_of(7) == "7"
    assert namespace_of(UUID(int=1)) == "00000000-0000-0000-0000-000000000001"


@pytest.mark.parametrize("value", [True, 1.5, None, b"u1", "", "a/b"])
def test_other_values_are_no_namespace(value: Any) -> None:
    with pytest.raises(InvalidValue):
        namespace_of(value)


@pytest.mark.parametrize("text", ["0-0", "1704123456789-42", "1-0", "9999999999999999-9999999999999999"])
def test_a_cursor_reads_as_it_is_written(text: str) -> None:
    assert str(Cursor.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "-", "1", "1-", "-1", "01-1", "1-01", "1-1 ", "1-1\n", "+1-1", "1-1-1", "٣-١", "1" * 17 + "-1"]
)
def test_other_texts_are_no_cursor(text: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        Cursor.parse(text)
    assert "cursor" in refused.value.errors


def test_cursors_are_ordered_as_numbers() -> None:
    assert ORIGIN < Cursor(1, 9) < Cursor(1, 10) < Cursor(9, 1) < Cursor(10, 1)


ENDS = {TaskState.COMPLETED, TaskState.ERROR, TaskState.CANCELLED}


@pytest.mark.parametrize("state", list(TaskState))
@pytest.mark.parametrize("later", list(TaskState))
def test_an_end_stays_and_lost_is_never_written(state: TaskState, later: TaskState) -> None:
    if state in ENDS:
        assert state.may_become(later) is (state is later)
    else:
        assert state.may_become(later) is (later is not TaskState.LOST)


def test_each_state_is_live_or_terminal_or_lost() -> None:
    assert [state for state in TaskState if state.live] == [TaskState.PENDING, TaskState.RUNNING]
    assert {state for state in TaskState if state.terminal} == ENDS
    assert str(TaskState.LOST) == "lost"


@pytest.mark.parametrize("value", ["token", "a", "x.y:z-1_", "A" * 64])
def test_an_event_type_is_a_short_word(value: str) -> None:
    assert check_event_type(value) == value


@pytest.mark.parametrize("value", ["end", "gap", "status", "attempt", "error", "open", "", "a b", "a\n", "é", "A" * 65])
def test_reserved_and_other_event_types_are_refused(value: str) -> None:
    with pytest.raises(InvalidValue):
        check_event_type(value)


def test_json_is_compact_and_keeps_what_is_not_ascii() -> None:
    assert to_json({"ключ": [1, None, True, 1.5]}) == '{"ключ":[1,null,true,1.5]}'


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.none() | st.booleans(), inner),
    )
)
def test_json_is_what_the_standard_library_makes_of_it(value: Any) -> None:
    assert to_json(value) == json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", {"a": object()}, b"x", {1, 2}])
def test_what_is_no_json_is_refused(value: Any) -> None:
    with pytest.raises(InvalidValue):
        to_json(value)


def test_what_is_nested_too_deep_or_in_itself_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    circle: list[Any] = []
    circle.append(circle)
    around: dict[str, Any] = {"text": "x" * 1000}
    around["again"] = [around]
    for value in (deep, circle, around):
        with pytest.raises(InvalidValue):
            to_json(value)
        assert to_json([around["text"][:1], {}]) == '["x",{}]'
    with pytest.raises(InvalidValue, match="Circular reference"):  # at once, not when it has grown too large
        to_json(around)


def test_what_is_encoded_may_encode_something_itself() -> None:
    class Telling(dict[str, Any]):
        def items(self) -> Any:
            assert to_json([{"a": [1]}]) == '[{"a":[1]}]'
            with pytest.raises(InvalidValue):
                to_json([object()])
            return super().items()

    assert to_json([{"b": [Telling(c=[2])]}]) == '[{"b":[{"c":[2]}]}]'


def test_threads_encode_side_by_side() -> None:
    value = {"list": [{"n": n, "text": "ключ"} for n in range(200)]}
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(to_json, [value] * 400)) == {text}
