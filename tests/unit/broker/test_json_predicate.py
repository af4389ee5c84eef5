"""`where`: RFC 9535 sections 2.3.5.1 (grammar) and 2.3.5.2.2 (comparisons)."""

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_broker.services.json_predicate import JsonPredicate
from ottla_broker.services.predicate_syntax import MAX_PREDICATE_CHARACTERS, MAX_PREDICATE_DEPTH
from ottla_protocol.errors import InvalidRequestError

FLIGHT = {
    "origin": "JFK",
    "dep_delay": 42,
    "tailnum": None,
    "air time": 1.5,
    "gate": {"no": 4, "open": True},
    "stops": [{"at": "ORD"}, 7],
    "été": "ja",
    "a/b": 'say "hi"\n',
}


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        ('$.origin=="JFK" && $.dep_delay>30', True),
        ("@.origin == 'JFK' && @.dep_delay > 42", False),
        ("$.origin == 'LGA' || $.dep_delay >= 42", True),
        # && binds closer than ||.
        ("$.origin == 'JFK' || $.origin == 'JFK' && $.dep_delay < 0", True),
        ("($.origin == 'JFK' || $.origin == 'JFK') && $.dep_delay < 0", False),
        ("!($.origin == 'LGA')", True),
        # What is null exists; what is not there equals nothing but nothing.
        ("$.tailnum", True),
        ("$.tailnum == null", True),
        ("$.missing", False),
        ("!$.missing", True),
        ("$.missing == null", False),
        ("$.missing == $.gone", True),
        ("$.missing != 1", True),
        ("$.missing < 1", False),
        ("$.missing >= 1", False),
        ("$.missing <= $.gone", True),
        ("$['air time'] == 1.50", True),
        ("$.dep_delay == 42.0", True),
        ("$.dep_delay == 4.2e1", True),
        ("42 < $.dep_delay", False),
        ("42 <= $.dep_delay", True),
        ("$.dep_delay == '42'", False),
        ("$.dep_delay < 'a'", False),
        ("$.origin < 'K'", True),
        ("'K' > $.origin", True),
        ("$.origin <= 'JFK'", True),
        # true is no number, as it is in Python.
        ("$.gate.open == true", True),
        ("$.gate.open == 1", False),
        ("$.gate.open >= true", True),
        ("$.gate.open > false", False),
        ("$.tailnum <= null", True),
        ("$.stops[0].at == 'ORD'", True),
        ("$.stops[-1] == 7", True),
        ("$.stops[2]", False),
        ("$.stops.at", False),
        ("$.origin[0]", False),
        ("$.stops == $.stops", True),
        ("$.gate == $.stops[0]", False),
        ("$.été == 'ja'", True),
        ('$["a/b"] == \'say "hi"\\n\'', True),
        ('$["a/b"] == "say \\"hi\\"\\u000a"', True),
        ("$['a\\/b']", True),
        ("$ == 1", False),
        ("1 == 1", True),
        ("1 == 1.0 && 'a' != \"b\"", True),
        ("$.true == true || true == true", True),
    ],
)
def test_holds_as_the_rfc_says(where: str, holds: bool) -> None:
    assert JsonPredicate(where).matches(msgspec.json.encode(FLIGHT)) is holds


@pytest.mark.parametrize(
    ("where", "position"),
    [
        ("", 0),
        ("   ", 3),
        ("$.a ==", 6),
        ("$.a == 1 &&", 11),
        ("$.a = 1", 4),
        ("$.a == 1 $.b", 9),
        ("$.a == 1 == 2", 9),
        ("$.a == 01", 7),
        ("$.a == 1.", 7),
        ("$.a == .5", 7),
        ("$.a == 1e999", 7),
        ("$.a == 'x", 7),
        (r"$.a == '\x'", 7),
        ("$.a == nil", 7),
        ("origin == 'JFK'", 0),
        ("'a'", 3),
        ("!'a'", 4),
        ("!$.a == 1", 5),
        ("($.a == 1", 9),
        ("$.a == 1)", 8),
        # All that may select many nodes, and the functions.
        ("$..a", 2),
        ("$.*", 2),
        ("$[*]", 2),
        ("$[0:2]", 3),
        ("$[0,1]", 3),
        ("$[?@.a]", 2),
        ("$[1.5]", 2),
        ("$[-0]", 2),
        ("$[99999999999999999]", 2),
        ("match($.a)", 0),
        ("$.a == length($.b)", 7),
    ],
)
def test_refuses_what_is_no_expression_and_says_where(where: str, position: int) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        JsonPredicate(where)
    assert refused.value.members == {"parameter": "where", "position": position}


def test_tells_how_equal_is_written() -> None:
    with pytest.raises(InvalidRequestError, match="equal is written =="):
        JsonPredicate('$.origin = "EWR"')


def test_text_and_depth_are_bounded() -> None:
    JsonPredicate("(" * MAX_PREDICATE_DEPTH + "$.a" + ")" * MAX_PREDICATE_DEPTH)
    for where in (
        "(" * (MAX_PREDICATE_DEPTH + 1) + "$.a" + ")" * (MAX_PREDICATE_DEPTH + 1),
        "$.a" + " " * MAX_PREDICATE_CHARACTERS,
    ):
        with pytest.raises(InvalidRequestError, match=r"at most|more than"):
            JsonPredicate(where)


@pytest.mark.parametrize(
    "value",
    [None, b"", b"text", b'{"a":1', b"\xff", b'{"a":"\xff"}', b"[" * 100_000, b'{"a":1e999}'],
)
def test_what_is_no_json_satisfies_nothing(value: bytes | None) -> None:
    assert not JsonPredicate("$.a == 1").matches(value)
    assert not JsonPredicate("!$.a || 1 == 1").matches(value)


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        # Whatever the other side of an || is, one is enough.
        ("$.a == 'x' || $.b == 'y'", True),
        ("$.b == 'y' || ($.a == 'x' && $.a == 'z')", True),
        ("!($.a == 'x')", True),
        ("$.a == 'x' && $.b == 'y'", False),
        # Neither alone nor deep within is true a number.
        ("$.t == $.one", False),
        ("$.one == $.t", False),
        ("$.ts == $.ones", False),
        ("$.ones == $.oneish", True),
        ("$.o.t == $.o.one", False),
        ("$.o == $.p", False),
        ("$.o.one == $.p.t", True),
    ],
)
def test_paths_with_one_another(where: str, holds: bool) -> None:
    document = {
        "b": "y", "t": True, "one": 1, "ts": [True], "ones": [1], "oneish": [1.0],
        "o": {"t": True, "one": 1}, "p": {"t": 1, "one": 1},
    }  # fmt: skip
    assert JsonPredicate(where).matches(msgspec.json.encode(document)) is holds


def test_members_that_are_not_named_need_not_be_readable_numbers() -> None:
    assert JsonPredicate("$.a == 1").matches(b'{"b":1e999,"a":1}')


@pytest.mark.parametrize("value", [b'{"a":"J\\u0046K"}', b'{"a":"x","a":"JFK"}', b'{"a": "JFK" }'])
def test_a_string_is_found_however_it_is_written(value: bytes) -> None:
    assert JsonPredicate('$.a == "JFK"').matches(value)
    assert JsonPredicate('"JFK" == $.a && $').matches(value)


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(-3, 3)
    | st.text("ab\"\\\n'é", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=6,
)
_constant = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(-3, 3)
    | st.text("ab\"\\\n'é", max_size=3)
)


def _kind(value: Any) -> type:
    return float if type(value) is int else type(value)


@given(_json, _constant, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), st.booleans())
def test_compares_as_a_plain_model_does(
    value: Any, constant: Any, operator: str, path_first: bool
) -> None:
    is_same = _kind(value) is _kind(constant)
    equal = is_same and value == constant
    has_order = is_same and _kind(value) in (float, str)
    left, right = (value, constant) if path_first else (constant, value)
    less, greater = has_order and left < right, has_order and left > right
    expected = {
        "==": equal, "!=": not equal, "<": less, ">": greater,
        "<=": less or equal, ">=": greater or equal,
    }[operator]  # fmt: skip
    text = msgspec.json.encode(constant).decode()
    for document, path in (
        ({"m": value}, "$.m"),
        ([value], "@[0]"),
        (value, "$"),
        ({"m": {"m": value}, "n": 1}, "$['m'][\"m\"]"),
    ):
        where = f"{path}{operator}{text}" if path_first else f"{text} {operator} {path}"
        predicate = JsonPredicate(where)
        assert predicate.matches(msgspec.json.encode(document)) is bool(expected), where
        # The same, where the decoder cannot take single members.
        both = JsonPredicate(f"{where} && ({path} || $.x.y || $.x.z || 1==1)")
        assert both.matches(msgspec.json.encode(document)) is bool(expected), where


@given(st.text("$@.[]()'\"\\!=<>&|0123456789eE+- abtrue_é", max_size=60))
def test_any_text_is_an_expression_or_refused(where: str) -> None:
    with suppress(InvalidRequestError):
        assert JsonPredicate(where).matches(b'{"a":[1,"b"]}') in (True, False)
