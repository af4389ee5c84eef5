import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_cluster.controller.topic_names import (
    collides,
    refuse_internal,
    validate_topic_name,
    warnings_for,
)
from ottla_protocol.errors import InvalidTopicError


@pytest.mark.parametrize("name", ["a", "orders", "A.b_c-9", "...", "x" * 248, "__consumer_offsets"])
def test_legal_names_pass(name):
    validate_topic_name(name)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("", "empty"),
        (".", "must not be '.'"),
        ("..", "must not be '..'"),
        ("x" * 249, "fewer than 249"),
        ("a/b", "character"),
        ("a b", "character"),
        ("a\n", "character"),
        ("naïve", "character"),
        ("a%2fb", "character"),
        ("a\0", "character"),
    ],
)
def test_illegal_names_are_refused_with_the_rule(name, rule):
    with pytest.raises(InvalidTopicError, match=rule) as caught:
        validate_topic_name(name, field="name")
    assert caught.value.problem()["field"] == "name"


@given(st.text(max_size=12))
def test_a_name_that_passes_is_safe_as_a_folder(name):
    try:
        validate_topic_name(name)
    except InvalidTopicError:
        return
    assert name.isascii()
    assert name not in {"", ".", ".."}
    assert not set(name) & set("/\\\0\n%: ")


@pytest.mark.parametrize(
    "name",
    ["__consumer_offsets", "__transaction_state", "__consumer.offsets", "..transaction.state"],
)
def test_internal_names_are_the_brokers_own(name):
    with pytest.raises(InvalidTopicError, match="internal") as caught:
        refuse_internal(name, parameter="topic")
    assert caught.value.problem()["parameter"] == "topic"


def test_other_names_with_two_underscores_are_not_internal():
    refuse_internal("__mine")


def test_names_collide_after_swapping_dot_and_underscore():
    assert collides("a.b", ["x", "a_b"]) == "a_b"
    assert collides("a_b.c", ["a.b_c"]) == "a.b_c"
    assert collides("a.b", ["a-b", "ab", "a.b"]) is None


def test_dot_together_with_underscore_is_warned_about():
    assert len(warnings_for("a.b_c")) == 1
    assert warnings_for("a.b-c") == ()
    assert warnings_for("a_b") == ()
