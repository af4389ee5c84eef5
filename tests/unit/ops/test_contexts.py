"""`ottla context`, and which cluster a command means."""

import json
import stat
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_ops.cli.bootstrap import DEFAULT_BOOTSTRAP
from ottla_ops.cli.context_file import change_contexts, contexts_path, read_contexts
from ottla_ops.cli.contexts import (
    CONTEXTS_MAX,
    NAME_PATTERN,
    Context,
    Contexts,
    decode,
    encode,
    resolve,
    with_context,
    with_current,
    without_context,
)
from ottla_ops.cli.failures import CommandError
from ottla_ops.cli.session import Words

TWO = Contexts(
    current="test",
    contexts={"prod": Context("http://p:1"), "test": Context("http://t:1")},
)
NAMES = st.from_regex(NAME_PATTERN, fullmatch=True)


def test_flag_goes_before_environment_before_context_before_default():
    order = [
        ({"bootstrap_option": "http://f:1"}, "--bootstrap"),
        ({"context_option": "prod"}, "--context"),
        ({"bootstrap_variable": "http://e:1"}, "OTTLA_BOOTSTRAP"),
        ({"context_variable": "prod"}, "OTTLA_CONTEXT"),
    ]
    for given_words in product((False, True), repeat=len(order)):
        words = {}
        for (word, _), is_given in zip(order, given_words, strict=True):
            words |= word if is_given else {}
        if given_words[0] and given_words[1]:
            with pytest.raises(CommandError) as raised:
                resolve(Words(**words), TWO)
            assert raised.value.exit_code == 2
            continue
        sources = [source for (_, source), given in zip(order, given_words, strict=True) if given]
        expected = sources[0] if sources else "context in use"
        assert resolve(Words(**words), TWO).source.value == expected
    assert resolve(Words(), Contexts()).bootstrap == DEFAULT_BOOTSTRAP
    assert resolve(Words(bootstrap_variable=""), TWO).bootstrap == "http://t:1"


@given(st.dictionaries(NAMES, st.integers(1, 65_535), max_size=5), st.randoms())
def test_contexts_come_back_from_the_file_as_they_went_in(ports, random):
    contexts = Contexts()
    for name, port in ports.items():
        contexts = with_context(contexts, name, f"h:{port}", overwrite=False)
    if ports:
        contexts = with_current(contexts, random.choice(sorted(ports)))
    assert decode(encode(contexts), "f") == contexts
    for name in ports:
        contexts = without_context(contexts, name)
    assert contexts == Contexts()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"version":2}',
        b'{"version":1,"more":1}',
        b'{"version":1,"current":"x"}',
        b'{"version":1,"contexts":{"x":{"bootstrap":"ftp://x"}}}',
    ],
)
def test_what_is_no_file_of_contexts_is_refused(content):
    with pytest.raises(CommandError) as raised:
        decode(content, "the-file")
    assert raised.value.code == "MALFORMED_CONTEXTS"
    assert "the-file" in raised.value.message


@pytest.mark.parametrize("name", ["", "-x", "a/b", "a b", "x" * 65, "ä"])
def test_bad_names_are_usage_errors(name):
    with pytest.raises(CommandError) as raised:
        with_context(Contexts(), name, "h:1", overwrite=False)
    assert raised.value.exit_code == 2


def test_there_is_a_limit():
    full = Contexts(contexts={f"c{n}": Context("http://h:1") for n in range(CONTEXTS_MAX)})
    with pytest.raises(CommandError):
        with_context(full, "one-more", "h:1", overwrite=False)
    assert with_context(full, "c1", "h:2", overwrite=True).contexts["c1"].bootstrap == "http://h:2"


@pytest.mark.parametrize(
    ("environment", "path"),
    [
        ({"XDG_CONFIG_HOME": "/x", "HOME": "/h"}, "/x/ottla/contexts.json"),
        ({"XDG_CONFIG_HOME": "x", "HOME": "/h"}, "/h/.config/ottla/contexts.json"),
        ({"XDG_CONFIG_HOME": "", "HOME": "/h"}, "/h/.config/ottla/contexts.json"),
        ({}, None),
    ],
)
def test_the_file_is_where_xdg_has_it(environment, path):
    found = contexts_path(environment)
    assert (None if found is None else str(found)) == path


def test_only_its_owner_reads_the_file_and_a_link_stays_a_link(tmp_path):
    target, link = tmp_path / "kept" / "file.json", tmp_path / "ottla" / "contexts.json"
    target.parent.mkdir()
    link.parent.mkdir()
    target.write_bytes(encode(Contexts()))
    target.chmod(0o644)
    link.symlink_to(target)
    change_contexts(link, lambda each: with_context(each, "prod", "p:1", overwrite=False))
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert read_contexts(link).contexts["prod"].bootstrap == "http://p:1"
    assert [each.name for each in target.parent.iterdir()] == ["file.json"]


def test_a_refused_change_leaves_the_file(tmp_path):
    path = tmp_path / "contexts.json"
    change_contexts(path, lambda _: TWO)
    with pytest.raises(CommandError):
        change_contexts(path, lambda each: without_context(each, "other"))
    assert read_contexts(path) == TWO


def test_from_add_to_remove(cli, cluster, tmp_path):
    cluster.create("orders")
    assert cli("context", "add", "here", cluster.bootstrap, "--use")[0] == 0
    assert cli("context", "add", "there", "--bootstrap", "nowhere:1")[0] == 0
    assert cli("context", "add", "there", "nowhere:2")[0] == 4
    code, out, _ = cli("context", "list")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [
        ["*", "here"],
        ["there", "http://nowhere:1"],
    ]
    assert "orders" in cli("topic", "list")[1]
    shown = json.loads(cli("context", "show", "--json", "--context", "there")[1])
    assert shown["bootstrap"] == "http://nowhere:1"
    assert shown["source"] == "--context"
    listed = json.loads(cli("context", "list", "--json")[1])
    assert listed["current"] == "here"
    assert listed["file"] == str(tmp_path / "config" / "ottla" / "contexts.json")
    assert cli("context", "remove", "here")[0] == 0
    assert "default" in cli("context", "show")[1]
    assert cli("context", "use", "here")[0] == 3
    assert cli("topic", "list", "--context", "here")[0] == 3


def test_a_broken_file_stops_only_who_needs_it(cli, cluster, tmp_path):
    path = tmp_path / "config" / "ottla" / "contexts.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    code, _, err = cli("topic", "list")
    assert (code, str(path) in err) == (1, True)
    assert cli("topic", "list", to=cluster)[0] == 0


@pytest.mark.parametrize("arguments", [[], ["h:1", "--bootstrap", "h:2"], ["ftp://h"]])
def test_add_wants_the_brokers_once(cli, arguments):
    assert cli("context", "add", "x", *arguments)[0] == 2
