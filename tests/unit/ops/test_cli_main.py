"""Global options, exit codes, and the ends that a command can come to."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from ottla_ops.cli import http_connection
from ottla_ops.cli.bootstrap import parse_bootstrap
from ottla_ops.cli.failures import CommandError
from ottla_ops.cli.main import hoist_global_options
from ottla_ops.local_cluster import free_ports

OTTLA = [sys.executable, "-c", "import sys; from ottla._entry import main; sys.exit(main())"]


@pytest.mark.parametrize(
    ("given", "hoisted"),
    [
        (["topic", "list", "--json"], ["--json", "topic", "list"]),
        (
            ["consume", "t", "--bootstrap", "a:1", "-q"],
            ["--bootstrap", "a:1", "-q", "consume", "t"],
        ),
        (["consume", "--bootstrap=a:1", "t"], ["--bootstrap=a:1", "consume", "t"]),
        (["dev", "supervise", "--", "x", "--json"], ["dev", "supervise", "--", "x", "--json"]),
        (["topic", "list", "--bootstrap"], ["--bootstrap", "topic", "list"]),
    ],
)
def test_global_options_may_stand_anywhere_before_the_dashes(given, hoisted):
    assert hoist_global_options(given) == hoisted


@pytest.mark.parametrize(
    "arguments", [["nope"], ["topic", "create"], ["consume", "t", "--max-records", "0"], ["topic"]]
)
def test_usage_errors_exit_with_2_and_leave_stdout_alone(cli, arguments):
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["topic", "create", "t", "--partitions", "x"], "'--partitions': not a whole number"),
        (["topic", "create", "t", "--partitions", "0"], "'--partitions': must be at least 1"),
        (["cluster", "health", "--wait", "x"], "'--wait': not a number"),
        (["group", "seek", "g"], "Missing option '--to'. Choose from: earliest, latest, offset,"),
        (["consume", "t", "--from", "yesterday"], "must be earliest, latest, an offset, -N"),
        (["consume", "t", "--from", "yesterday"], "RFC 3339 (2013-01-01T06:00:00Z), or how long"),
        (["context", "add", "a", "b:1", "--bootstrap", "c:1"], "the brokers are named twice"),
    ],
)
def test_a_usage_error_is_one_line_in_plain_words(cli, arguments, told):
    code, _, err = cli(*arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert told in err


def test_a_usage_error_as_json(cli):
    code, _, err = cli("nope", "--json")
    assert code == 2
    assert json.loads(err)["code"] == "USAGE"


def test_help_exits_with_0(cli):
    code, out, _ = cli("--help")
    assert code == 0
    for verb in ("cluster", "topic", "produce", "consume", "dev"):
        assert f"\n  {verb}" in out


def test_what_a_command_would_go_by_is_explained_and_nothing_done(cli, cluster):
    code, out, _ = cli("topic", "create", "t", "--explain-config", "--quiet", to=cluster)
    assert code == 0
    rows = {line.split("  ")[0]: line.split()[-2:] for line in out.splitlines()}
    assert rows["bootstrap"] == [cluster.bootstrap, "--bootstrap"]
    assert rows["quiet"] == ["yes", "--quiet"]
    assert rows["json"] == ["no", "default"]
    assert cluster.calls() == []


def test_the_explanation_follows_precedence(cli, monkeypatch):
    monkeypatch.setenv("OTTLA_BOOTSTRAP", "a:1")
    monkeypatch.setenv("NO_COLOR", "1")
    settings = json.loads(cli("--explain-config", "--json")[1])["settings"]
    assert settings["bootstrap"] == {"value": "a:1", "source": "OTTLA_BOOTSTRAP"}
    assert settings["colour"] == {"value": "no", "source": "NO_COLOR"}
    monkeypatch.delenv("OTTLA_BOOTSTRAP")
    settings = json.loads(cli("--explain-config", "--json")[1])["settings"]
    assert settings["bootstrap"]["source"] == "default"


@pytest.mark.parametrize("arguments", [["--json"], ["--quiet"], []])
def test_without_a_command_it_is_a_usage_error(cli, arguments):
    assert cli(*arguments)[0] == 2


def test_version(cli):
    code, out, _ = cli("--version")
    assert (code, out) == (0, "ottla 0.1.0\n")


def test_an_unreachable_cluster_fails_naming_every_url_and_reason(cli):
    urls = [f"http://127.0.0.1:{port}" for port in free_ports(2)]
    started_s = time.monotonic()
    code, out, err = cli("topic", "list", "--bootstrap", ",".join(urls))
    assert time.monotonic() - started_s < 5
    assert (code, out) == (5, "")
    for url in urls:
        assert f"{url}: connection refused" in err


def test_the_next_url_is_tried_when_one_is_down(cli, three_brokers):
    three_brokers.create("orders")
    three_brokers.stop_broker(1)
    code, out, _ = cli("topic", "list", to=three_brokers)
    assert code == 0
    assert "orders" in out
    assert three_brokers.calls()[0].broker == 2


def test_a_broker_that_does_not_answer_is_left_for_the_next(cli, three_brokers, monkeypatch):
    monkeypatch.setattr(http_connection, "READ_TIMEOUT_S", 0.2)
    three_brokers.create("orders")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        urls = f"127.0.0.1:{silent.getsockname()[1]},{three_brokers.bootstrap}"
        code, out, _ = cli("topic", "list", "--bootstrap", urls)
    assert code == 0
    assert "orders" in out


def test_silence_everywhere_is_a_timeout(cli, monkeypatch):
    monkeypatch.setattr(http_connection, "READ_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        code, _, err = cli("topic", "list", "--bootstrap", url)
    assert code == 5
    assert f"no answer ({url}: no answer within 0.1 s)" in err


def test_a_write_whose_answer_was_lost_is_not_sent_again(cli, three_brokers):
    three_brokers.lose_answers(1)
    code, _, err = cli("topic", "create", "orders", to=three_brokers)
    assert code == 5
    assert "may have been carried out" in err
    assert len(three_brokers.calls("POST")) == 1


@pytest.mark.parametrize(
    ("bootstrap", "urls"),
    [
        ("http://a:1,http://b:2/", ("http://a:1", "http://b:2")),
        (" a:1 , b:2 ,", ("http://a:1", "http://b:2")),
        ("https://a", ("https://a",)),
    ],
)
def test_bootstrap_lists(bootstrap, urls):
    assert parse_bootstrap(bootstrap) == urls


@pytest.mark.parametrize(
    "bootstrap", ["", ",", "ftp://a:1", "http://a:x", "http://a:99999", "a:1/p"]
)
def test_bad_bootstrap_lists_are_usage_errors(bootstrap):
    with pytest.raises(CommandError) as raised:
        parse_bootstrap(bootstrap)
    assert raised.value.exit_code == 2


def test_the_bootstrap_comes_from_the_environment(cluster):
    cluster.create("orders")
    environment = {**os.environ, "OTTLA_BOOTSTRAP": cluster.bootstrap}
    done = subprocess.run(
        [*OTTLA, "topic", "list"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "orders" in done.stdout


@pytest.mark.parametrize(
    ("command", "unbuffered"),
    [
        (["consume"], ""),
        # A write may end half-way then.
        (["consume", "--follow"], "1"),
        (["consume", "--follow"], ""),
        (["tail", "-n3000"], "1"),
    ],
)
def test_a_reader_that_has_seen_enough_ends_the_command_quietly(cluster, command, unbuffered):
    cluster.create("orders")
    cluster.append("orders", 0, *("x" * 1_000 for _ in range(3_000)))
    consume = subprocess.Popen(
        [*OTTLA, *command, "orders", "--bootstrap", cluster.bootstrap],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    head = subprocess.run(["head", "-1"], stdin=consume.stdout, capture_output=True, check=True)
    consume.stdout.close()
    _, stderr = consume.communicate(timeout=60)
    assert head.stdout.strip() == b"x" * 1_000
    assert (consume.returncode, stderr) == (0, b"")


def test_ctrl_c_exits_with_130_without_a_traceback(cluster):
    cluster.create("orders")
    cluster.append("orders", 0, "first")
    consume = subprocess.Popen(
        [*OTTLA, "consume", "orders", "--follow", "--bootstrap", cluster.bootstrap],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert consume.stdout.readline() == b"first\n"
        consume.send_signal(signal.SIGINT)
        _, stderr = consume.communicate(timeout=20)
        assert (consume.returncode, stderr) == (130, b"")
    finally:
        consume.kill()
        consume.communicate()


def test_supervise_runs_without_the_command_tree(tmp_path):
    script = tmp_path / "child.py"
    script.write_text("import sys; sys.exit(2)")
    done = subprocess.run(
        [*OTTLA, "dev", "supervise", "--", sys.executable, str(script)], capture_output=True
    )
    assert done.returncode == 2


def test_without_the_server_extra_the_command_names_it():
    hide_typer = "import sys; sys.modules['typer'] = None; "
    done = subprocess.run(
        [sys.executable, "-c", hide_typer + OTTLA[2], "topic", "list"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "pip install 'ottla[server]'" in done.stderr
    assert done.stderr.count("\n") == 1
