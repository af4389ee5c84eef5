"""Paths of the metadata tree: written and read back, and checked after decoding."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_protocol.errors import InvalidRequestError
from ottla_protocol.tree_paths import MAX_PATH_DEPTH, join_path, split_path

NAMES = st.text(min_size=1, max_size=20).filter(
    lambda name: name.isprintable() and name not in {".", ".."}
)


@given(st.lists(NAMES, max_size=8).map(tuple))
def test_what_is_written_is_read_back(segments):
    path = join_path(segments)
    assert split_path(path) == segments
    assert " " not in path
    assert path == "/" or split_path(path + "/") == segments


@given(st.text(max_size=40))
def test_any_text_is_a_path_or_is_refused(text):
    try:
        segments = split_path("/" + text)
    except InvalidRequestError:
        return
    assert all(name.isprintable() and name not in {"", ".", ".."} for name in segments)
    assert split_path(join_path(segments)) == segments


def test_names_that_have_a_meaning_in_paths():
    assert join_path(("consumers", "a/b 100%")) == "/consumers/a%2Fb%20100%25"
    assert split_path("/consumers/a%2fb%20100%25") == ("consumers", "a/b 100%")
    assert split_path("/") == split_path("//") == ()


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("", "begin with '/'"),
        ("brokers", "begin with '/'"),
        ("/brokers//ids", "empty name"),
        ("///", "empty name"),
        ("/brokers/..", "'..'"),
        ("/brokers/%2e%2E/config", "'..'"),
        ("/%2e", "'.'"),
        ("/a%00b", "printable"),
        ("/a%0d%0aX: y", "printable"),
        ("/\x1b[31m", "printable"),
        ("/\udc80", "printable"),
        ("/%ff", "UTF-8"),
        ("/" + "a" * 256, "at most 255"),
        ("/" + "%41" * 256, "at most 255"),
        ("/a" * (MAX_PATH_DEPTH + 1), "at most 16 names"),
        ("/" + "a" * 9_000, "at most 8192"),
    ],
)
def test_what_is_no_path_is_refused_naming_the_rule(path, rule):
    with pytest.raises(InvalidRequestError) as told:
        split_path(path)
    assert rule in told.value.detail
    assert told.value.members["field"] == "path"
