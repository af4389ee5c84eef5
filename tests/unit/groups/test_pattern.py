"""Patterns match whole names, as regular expressions of the same text do, in bounded time."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_cluster.groups.limits import MAX_PATTERN_LENGTH
from ottla_cluster.groups.pattern import Pattern
from ottla_protocol.errors import InvalidPatternError

atoms = st.sampled_from(["a", "b", "-", ".", "[ab]", "[^a]", "[a-c]", r"\.", "[.-]", r"[\]]"])
patterns = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map("|".join),
        st.tuples(inner, st.sampled_from("*+?")).map(lambda pair: f"({pair[0]}){pair[1]}"),
    ),
    max_leaves=8,
)


@given(patterns, st.text("abc.-]", max_size=8))
def test_a_pattern_matches_as_a_regular_expression_does(text, name):
    assert Pattern(text).matches(name) == (re.fullmatch(text, name) is not None)


@pytest.mark.parametrize(
    ("text", "matching", "others"),
    [
        ("orders", ["orders"], ["orders2", "xorders"]),
        ("^orders.*$", ["orders", "orders-eu"], ["my-orders"]),
        (r"eu\.(orders|clicks)", ["eu.orders", "eu.clicks"], ["eu-orders", "eu.orders2"]),
        ("[a-z]+-[0-9]?", ["a-", "ab-1"], ["A-1", "a-12"]),
        ("a|", ["a", ""], ["b"]),
        (r"price\$", ["price$"], ["price"]),
    ],
)
def test_what_patterns_are_used_for(text, matching, others):
    assert all(Pattern(text).matches(name) for name in matching)
    assert not any(Pattern(text).matches(name) for name in others)


@pytest.mark.parametrize(
    "text",
    ["", "(", ")", "(a", "a)", "[", "[a", "[]", "[z-a]", "*", "a**", "a+?", "\\", "\\d", "a{2}",
     "a^", "$a", "(?:a)", "[é]", "(" * 30 + ")" * 30, "a" * (MAX_PATTERN_LENGTH + 1)],
)  # fmt: skip
def test_what_does_not_parse_is_refused(text):
    with pytest.raises(InvalidPatternError, match="pattern"):
        Pattern(text)


def test_the_pattern_that_stalls_a_backtracking_matcher_does_not_stall_this_one():
    pattern = Pattern("(((a+)+)+)+b")
    assert not pattern.matches("a" * 248)
    assert pattern.matches("a" * 247 + "b")
