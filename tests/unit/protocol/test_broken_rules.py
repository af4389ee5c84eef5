"""What msgspec says is told as a field and its rule, whatever it is."""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from ottla_protocol.broken_rules import broken_rule, malformation


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    a: int


class Model(msgspec.Struct, forbid_unknown_fields=True):
    """A field of every kind that the models of the API have."""

    number: int = 0
    either: int | str | None = None
    entries: list[Inner] = []
    named: dict[str, int] = {}
    word: Literal["x", "y"] | None = "x"
    bounded: Annotated[int, Meta(ge=1, le=5)] = 1
    short: Annotated[str, Meta(max_length=3)] = "a"
    plain: Annotated[str, Meta(pattern="^a+$")] = "a"
    data: bytes = b""
    pair: tuple[int, int] = (1, 2)
    some: Annotated[list[int], Meta(min_length=1)] | None = None
    keys: dict[Annotated[str, Meta(max_length=2)], int] = {}
    moment: Annotated[datetime, Meta(tz=True)] | None = None
    fraction: float = 0.5
    truth: bool = True


class Needed(msgspec.Struct):
    name: str


def told(document, model=Model):
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.json.decode(document, type=model)
    return str(broken_rule(refused.value, model))


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("[]", "the body must be an object, not an array"),
        ('{"number": "7"}', "number must be a whole number, not text"),
        ('{"number": 1.5}', "number must be a whole number, not a fraction"),
        ('{"either": []}', "either must be a whole number or text or null, not an array"),
        ('{"entries": [{"a": 1}, {}]}', "entries[1].a is missing"),
        ('{"entries": [{"a": 1, "b": 1}]}', "entries[0].b is no field that there is"),
        ('{"named": {"q": "x"}}', "named[] must be a whole number, not text"),
        ('{"word": "z"}', "word must be one of x, y, not 'z'"),
        ('{"bounded": 0}', "bounded must be at least 1"),
        ('{"bounded": 6}', "bounded must be at most 5"),
        ('{"short": "abcd"}', "short must have at most 3 characters"),
        ('{"plain": "b"}', "plain must match the pattern '^a+$'"),
        ('{"data": "!"}', "data must be base64 (RFC 4648 section 4)"),
        ('{"pair": [1]}', "pair must have exactly 2 entries"),
        ('{"some": []}', "some must have at least 1 entry"),
        ('{"keys": {"abc": 1}}', "keys must have at most 2 characters"),
        ('{"moment": "now"}', "moment must be a time as RFC 3339 has it"),
        ('{"moment": "2020-01-01T00:00:00"}', "moment must tell its time zone"),
        ('{"fraction": 1e400}', "fraction must be a number of at most 64 bits"),
    ],
)
def test_a_rule_is_told_in_plain_words(document, expected):
    assert told(document) == expected


def test_an_unknown_field_is_answered_with_those_that_there_are():
    assert told('{"topic": 1}').startswith("topic is no field of this call, which takes: number, ")


def test_a_missing_field_is_named():
    assert told("{}", Needed) == "name is missing"


values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text("ab!"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab!"), inner, max_size=2),
    max_leaves=4,
)
fields = [field.name for field in msgspec.structs.fields(Model)]


@given(st.dictionaries(st.sampled_from([*fields, "other"]), values, max_size=3))
def test_nothing_is_told_in_the_words_of_python(document: dict[str, Any]):
    try:
        msgspec.json.decode(msgspec.json.encode(document), type=Model)
    except msgspec.ValidationError as error:
        broken = broken_rule(error, Model)
        assert broken.field.partition("[")[0].partition(".")[0] in document
        assert "breaks a rule" not in broken.rule
        assert "`" not in broken.rule


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "the body is empty; it must be JSON"),
        (b'{"a": ', "JSON is malformed: it ends too early (byte 6)"),
        (b"{a}", "JSON is malformed: object keys must be strings (byte 1)"),
    ],
)
def test_what_is_no_json_is_told_with_its_place(body, expected):
    with pytest.raises(msgspec.DecodeError) as refused:
        msgspec.json.decode(body)
    assert malformation(body, refused.value) == expected
