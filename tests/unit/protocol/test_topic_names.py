"""The rule for topic names is one for brokers and clients, whatever they are given."""

import pytest

from ottla_protocol.errors import InvalidTopicError
from ottla_protocol.topic_names import MAX_TOPIC_NAME_LENGTH, validate_topic_name


@pytest.mark.parametrize("name", ["a", "a.b_c-D9", "x" * MAX_TOPIC_NAME_LENGTH, "...", "__mine"])
def test_legal_names_pass(name):
    validate_topic_name(name)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("", "empty"),
        (".", "'.'"),
        ("..", "'..'"),
        ("x" * (MAX_TOPIC_NAME_LENGTH + 1), "fewer than 249"),
        ("a,b", "outside ASCII letters"),
        ("a b", "outside ASCII letters"),
        ("a\ud800", "outside ASCII letters"),
        ("å", "outside ASCII letters"),
        (b"orders", "text, not bytes"),
        (None, "text, not NoneType"),
        (7, "text, not int"),
    ],
)
def test_others_are_refused_with_the_rule(name, rule):
    with pytest.raises(InvalidTopicError, match=rule):
        validate_topic_name(name)
