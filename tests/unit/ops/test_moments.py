"""Moments as people write them."""

import pytest

from ottla_ops.cli.failures import CommandError
from ottla_ops.cli.moments import is_moment, moment_ms

NOW_MS = 1_700_000_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1357020000000", 1_357_020_000_000),
        ("2013-01-01T06:00:00Z", 1_357_020_000_000),
        ("2013-01-01t07:00:00+01:00", 1_357_020_000_000),
        ("2013-01-01 06:00:00.250Z", 1_357_020_000_250),
        ("2013-01-01", 1_356_998_400_000),
        ("2h", NOW_MS - 7_200_000),
        ("1h30m", NOW_MS - 5_400_000),
        ("1w2d3s4ms", NOW_MS - 777_603_004),
    ],
)
def test_moments(text, expected):
    assert moment_ms(text, "--value", NOW_MS) == expected
    assert is_moment(text) == (not text.isdigit())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("yesterday", "not a moment"),
        ("2h ago", "not a moment"),
        ("2", None),
        ("-2h", "not a moment"),
        ("h", "not a moment"),
        ("²", "not a moment"),
        ("2013-13-01", "not a moment"),
        ("2013-01-01T06:00:00", "add Z"),
        ("1969-12-31", "before 1970"),
        ("9" * 20, "too far ahead"),
        ("999999w", "before 1970"),
    ],
)
def test_what_is_none_is_told_with_the_rule(text, reason):
    if reason is None:
        assert not is_moment(text)
        return
    with pytest.raises(CommandError, match=reason) as raised:
        moment_ms(text, "--value", NOW_MS)
    assert raised.value.exit_code == 2
