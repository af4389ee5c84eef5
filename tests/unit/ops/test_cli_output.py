"""Colour, progress and notes are for people on a terminal who want them."""

import io

import pytest

from ottla_ops.cli import transfer_progress
from ottla_ops.cli.failures import HINTS_BY_CODE, CommandError, ExitCode
from ottla_ops.cli.output import Output, _has_colour


class Stream(io.StringIO):
    """A text stream that is a terminal or none."""

    def __init__(self, *, terminal):
        super().__init__()
        self._terminal = terminal

    def isatty(self):
        return self._terminal


@pytest.mark.parametrize(
    ("terminal", "no_color", "coloured"),
    [(True, "", True), (True, "1", False), (False, "", False)],
)
def test_colour_needs_a_terminal_and_no_objection(monkeypatch, terminal, no_color, coloured):
    monkeypatch.setenv("NO_COLOR", no_color)
    assert _has_colour(Stream(terminal=terminal)) == coloured


def test_an_error_on_a_terminal_is_marked(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    stderr = Stream(terminal=True)
    monkeypatch.setattr("sys.stderr", stderr)
    Output().error(CommandError("it broke", code="X", hint="mend it"))
    assert stderr.getvalue() == "\x1b[31mottla:\x1b[0m it broke (mend it)\n"


@pytest.mark.parametrize(
    ("terminal", "options", "shown"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"quiet": True}, False),
        (True, {"as_json": True}, False),
    ],
)
def test_progress_is_for_a_person_at_a_terminal(monkeypatch, terminal, options, shown):
    monkeypatch.setattr("sys.stderr", Stream(terminal=terminal))
    assert Output(**options).shows_progress == shown


def test_a_long_input_shows_a_bar_that_goes_away(cli, cluster, monkeypatch):
    monkeypatch.setattr(transfer_progress, "PROGRESS_AFTER_S", -1.0)
    monkeypatch.setattr(Output, "shows_progress", property(lambda _: True))
    monkeypatch.setenv("FORCE_COLOR", "1")
    cluster.create("t")
    code, out, err = cli("produce", "t", stdin=b"a\nb\n", to=cluster)
    assert (code, out) == (0, "")
    assert "2 records" in err
    assert "2 records written to t" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("stdout_is_terminal", "arguments", "shown"),
    [(False, [], True), (True, [], False), (False, ["--quiet"], False), (False, ["--json"], False)],
)
def test_reading_tells_its_rate_where_it_is_not_in_the_way(
    cli, cluster, monkeypatch, stdout_is_terminal, arguments, shown
):
    monkeypatch.setattr(transfer_progress, "PROGRESS_AFTER_S", -1.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("sys.stdout.isatty", lambda: stdout_is_terminal)
    monkeypatch.setenv("TERM", "xterm")
    cluster.create("t")
    cluster.append("t", 0, "a", "b")
    code, out, err = cli("consume", "t", *arguments, to=cluster)
    assert (code, len(out.splitlines())) == (0, 2)
    assert ("2 records read from t" in err) == shown
    assert bool(err) == shown


def test_exit_codes_are_those_of_the_contract():
    assert {code.name: code.value for code in ExitCode} == {
        "OK": 0,
        "FAILURE": 1,
        "USAGE": 2,
        "NOT_FOUND": 3,
        "CONFLICT": 4,
        "UNAVAILABLE": 5,
        "DENIED": 6,
        "INTERRUPTED": 130,
    }


def test_every_hint_belongs_to_a_code_that_brokers_know():
    from ottla_protocol.errors import ERRORS_BY_CODE

    assert set(HINTS_BY_CODE) <= set(ERRORS_BY_CODE)
