"""What the harness of documentation finds in a page, and what it takes for the same output."""

import pytest

from tests.cluster.page_blocks import PageError, blocks_of
from tests.cluster.page_output import difference

RUN = "```sh\ncurl -s http://127.0.0.1:7101/livez\n```\n"


def test_a_block_has_the_output_that_follows_it_directly():
    shell, alone = blocks_of(RUN + "\n```json\n{}\n```\n\nAnd:\n\n" + RUN + "\nThe same.\n")
    assert (shell.language, shell.line, shell.output.text) == ("sh", 1, "{}\n")
    assert alone.output is None


def test_pictures_are_not_run():
    assert blocks_of("```text\na --> b\n```\n\n```mermaid\ngraph LR\n```\n") == []


def test_a_mark_is_the_next_blocks():
    block, run = blocks_of("<!-- not run: needs systemd -->\n" + RUN + "\n" + RUN)
    assert (block.is_run, block.reason, run.is_run) == (False, "needs systemd", True)


@pytest.mark.parametrize(
    "page",
    [
        "```json\n{}\n```\n",
        "```yaml\na: 1\n```\n",
        RUN + "\nIt answers:\n\n```json\n{}\n```\n",
        "<!-- not run: short -->\n" + RUN,
        "<!-- not run: it stands above words -->\nWords.\n" + RUN,
        "<!-- endless -->\n```python\npass\n```\n",
        "<!-- goes on -->\n```python\npass\n```\n",
        "- a list\n\n  ```sh\n  true\n  ```\n",
        "~~~sh\ntrue\n~~~\n",
        "```sh\ntrue\n",
    ],
)
def test_what_would_not_be_run_is_refused(page):
    with pytest.raises(PageError):
        blocks_of(page)


@pytest.mark.parametrize(
    ("language", "shown", "printed"),
    [
        ("json", '{"a":1}', '{"before":0}\n{"a": 1} {"after":2}'),
        ("json", '{"a": 1, ...}', '{"a":1,"b":2}'),
        ("json", '{"a": ..., "b": [1, ...]}', '{"a":{"c":3},"b":[1,2,3]}'),
        ("json", '{"a": "x..."}', '{"a":"xyz"}'),
        ("json", '{"timestamp": 1, "a": "..."}', '{"timestamp":2,"a":"b"}'),
        ("text", "A  B\n1  2", "before\nA      B\n\n1 2\nafter\n"),
        ("text", "first\n...\nlast ...", "first\nsecond\nthird\nlast one\n"),
    ],
)
def test_the_same(language, shown, printed):
    assert difference(shown, printed, language) is None


@pytest.mark.parametrize(
    ("language", "shown", "printed"),
    [
        ("json", '{"a":1}', '{"a":2}'),
        ("json", '{"a":1}', '{"a":1,"b":2}'),
        ("json", '{"a":1}', '{"a":true}'),
        ("json", '{"a": 1, ...}', '{"b":2}'),
        ("json", "[1, 2]", "[1]"),
        ("json", "[1, ...]", "[2, 3]"),
        ("json", '{"a":1}\n{"a":2}', '{"a":2}'),
        ("json", '{"a": "x...z"}', '{"a":"xy"}'),
        ("json", '{"timestamp": 1}', '{"timestamp":"1"}'),
        ("text", "first\nlast", "first\nsecond\nlast\n"),
        ("text", "first\nlast", "last\nfirst\n"),
        ("text", "first", "the first\n"),
        ("text", "first", "first one\n"),
    ],
)
def test_another(language, shown, printed):
    assert difference(shown, printed, language) is not None
