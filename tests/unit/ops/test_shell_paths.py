"""Words of the metadata shell: paths resolved, commands and paths completed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_ops.cli.shell_paths import COMMANDS, completions, resolve

TREE = {
    "/": ["brokers", "config", "consumers", "controller", "controller_epoch"],
    "/brokers": ["ids", "topics"],
    "/brokers/ids": ["1", "2"],
    "/brokers/topics": ["orders", "orders-old"],
    "/consumers": ["a%2Fb", "a%20c"],
    "/consumers/a%2Fb": ["ids"],
}


def complete(line, current="/"):
    return completions(line, current, lambda path: TREE.get(path, []))


@pytest.mark.parametrize(
    ("current", "argument", "path"),
    [
        ("/", "brokers", "/brokers"),
        ("/brokers", "ids/1", "/brokers/ids/1"),
        ("/brokers", "/config", "/config"),
        ("/brokers/ids", "..", "/brokers"),
        ("/brokers/ids", "../topics/.", "/brokers/topics"),
        ("/brokers", "../../..", "/"),
        ("/brokers", ".", "/brokers"),
        ("/brokers", "", "/brokers"),
        ("/brokers", "ids/", "/brokers/ids"),
        ("/", "//brokers//ids", "/brokers/ids"),
        ("/consumers", "a%2Fb", "/consumers/a%2Fb"),
        ("/consumers", "..a", "/consumers/..a"),
    ],
)
def test_paths_are_resolved(current, argument, path):
    assert resolve(current, argument) == path


@given(st.lists(st.sampled_from(["a", "b", ".."]), max_size=6), st.lists(st.sampled_from("ab")))
def test_a_relative_path_is_the_absolute_one_below_where_one_is(argument, current):
    here = "/" + "/".join(current)
    relative = "/".join(argument)
    assert resolve(here, relative) == resolve("/", f"{here}/{relative}")
    assert ".." not in resolve(here, relative)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", sorted(COMMANDS)),
        ("  ", sorted(COMMANDS)),
        ("g", ["get "]),
        ("x", []),
        ("ls ", TREE["/"]),
        ("ls  ", TREE["/"]),
        ("ls b", ["brokers/"]),
        ("ls -", ["-R "]),
        ("get -", []),
        ("ls -R b", ["brokers/"]),
        ("get con", ["config", "consumers", "controller", "controller_epoch"]),
        ("get controller_", ["controller_epoch "]),
        ("cd brokers/", ["brokers/ids", "brokers/topics"]),
        ("cd brokers/i", ["brokers/ids/"]),
        ("cd /brokers/ids/1", ["/brokers/ids/1 "]),
        ("cd /b", ["/brokers/"]),
        ("get brokers/topics/orders", ["brokers/topics/orders", "brokers/topics/orders-old"]),
        ("ls consumers/a%2", ["consumers/a%2Fb", "consumers/a%20c"]),
        ("ls consumers/a%2F", ["consumers/a%2Fb/"]),
        ("ls nowhere/x", []),
        ("pwd x", []),
        ("nonsense b", []),
    ],
)
def test_the_last_word_is_completed(line, words):
    assert complete(line) == words


def test_completion_is_relative_to_where_one_is():
    assert complete("ls i", "/brokers") == ["ids/"]
    assert complete("ls ../c", "/brokers/ids") == []
    assert complete("ls ../i", "/brokers/ids") == ["../ids/"]
    assert complete("ls ./i", "/brokers") == ["./ids/"]


@given(st.text(alphabet="gls cd/brokeids.-R %", max_size=20), st.sampled_from(sorted(TREE)))
def test_every_completion_begins_with_what_was_typed(line, current):
    for word in complete(line, current):
        assert word.startswith(line.lstrip().rpartition(" ")[2])
