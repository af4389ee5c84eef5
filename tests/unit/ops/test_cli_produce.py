"""`ottla produce`: all of the input, once, in order, and the truth about what was written."""

import json
import os
import pty
import subprocess
import sys
import threading

import pytest

from ottla_ops.cli import producing, record_input
from ottla_ops.cli.failures import CommandError
from ottla_ops.cli.http_connection import HttpConnection
from ottla_ops.cli.producing import ProduceTarget, send_batches
from ottla_ops.cli.record_input import Batch


def test_lines_become_text_records(cli, cluster):
    cluster.create("t")
    code, out, err = cli("produce", "t", stdin=b"a\nb\n", to=cluster)
    assert (code, out) == (0, "")
    assert err.startswith("2 records written to t in ")
    assert cluster.values("t") == [b"a", b"b"]


def test_a_file_is_read_too(cli, cluster, tmp_path):
    cluster.create("t")
    (tmp_path / "input").write_bytes(b"a\nb")
    assert cli("produce", "t", tmp_path / "input", to=cluster)[0] == 0
    assert cluster.values("t") == [b"a", b"b"]


def test_a_file_that_cannot_be_read_is_told(cli, cluster, tmp_path):
    code, _, err = cli("produce", "t", tmp_path / "none", to=cluster)
    assert code == 3
    assert "No such file" in err


def test_an_empty_input_writes_nothing(cli, cluster):
    code, _, err = cli("produce", "t", to=cluster)
    assert code == 0
    assert err.startswith("0 records")
    assert cluster.calls() == []


def test_ndjson_with_a_key_field(cli, cluster):
    cluster.create("t")
    lines = b'{"carrier":"UA","n":1}\n{"carrier":"AA","n":2}\n'
    assert (
        cli("produce", "t", "--ndjson", "--key-field", "carrier", stdin=lines, to=cluster)[0] == 0
    )
    records = cluster.calls("POST")[0].body["records"]
    assert records[0] == {"key": "UA", "value": {"carrier": "UA", "n": 1}}


def test_a_partition_of_choice(cli, cluster):
    cluster.create("t", 3)
    assert cli("produce", "t", "--partition", 2, stdin=b"a", to=cluster)[0] == 0
    assert cluster.values("t", 2) == [b"a"]


@pytest.mark.parametrize("acks", ["0", "1", "all"])
def test_acks_are_asked_for(cli, cluster, acks):
    cluster.create("t")
    assert cli("produce", "t", "--acks", acks, stdin=b"a", to=cluster)[0] == 0
    assert cluster.calls("POST")[0].query["acks"] == acks


@pytest.mark.parametrize(
    "options",
    [
        ["--key-field", "k"],
        ["--ndjson", "--key-separator", ":"],
        ["--key-separator", ""],
        ["--key", "k", "--key-separator", ":"],
        ["--ndjson", "--key", "k", "--key-field", "f"],
        ["--acks", "2"],
        ["--partition", "-1"],
    ],
)
def test_options_that_exclude_each_other(cli, cluster, options):
    assert cli("produce", "t", *options, stdin=b"a", to=cluster)[0] == 2
    assert cluster.calls() == []


def test_json_acks_name_the_offset_of_every_record(cli, cluster):
    cluster.create("t")
    code, out, err = cli("produce", "t", "--json", stdin=b"a\nb\n", to=cluster)
    assert (code, err) == (0, "")
    assert [json.loads(line) for line in out.splitlines()] == [
        {"partition": 0, "offset": 0, "duplicate": False},
        {"partition": 0, "offset": 1, "duplicate": False},
    ]


def test_quiet_says_nothing(cli, cluster):
    cluster.create("t")
    assert cli("produce", "t", "--quiet", stdin=b"a", to=cluster) == (0, "", "")


def test_every_request_has_an_idempotency_key_of_its_own(cli, cluster, monkeypatch):
    monkeypatch.setattr(record_input, "BATCH_RECORDS_MAX", 2)
    cluster.create("t")
    assert cli("produce", "t", stdin=b"a\nb\nc\nd\ne", to=cluster)[0] == 0
    keys = [call.headers["idempotency-key"] for call in cluster.calls("POST")]
    assert len(keys) == len(set(keys)) == 3
    assert cluster.values("t") == [b"a", b"b", b"c", b"d", b"e"]


def test_an_answer_that_got_lost_is_asked_for_again_and_stores_nothing_twice(cli, three_brokers):
    three_brokers.create("t")
    three_brokers.lose_answers(2)
    code, out, _ = cli("produce", "t", "--json", stdin=b"a\nb", to=three_brokers)
    assert code == 0
    assert three_brokers.values("t") == [b"a", b"b"]
    assert [call.broker for call in three_brokers.calls("POST")] == [1, 2, 3]
    assert json.loads(out.splitlines()[0])["duplicate"] is True


def test_without_idempotency_a_lost_answer_is_a_failure(cli, three_brokers):
    three_brokers.create("t")
    three_brokers.lose_answers(1)
    code, _, err = cli("produce", "t", "--no-idempotency", stdin=b"a", to=three_brokers)
    assert code == 5
    assert "may have been carried out" in err
    assert three_brokers.values("t") == [b"a"]


def test_without_idempotency_only_what_was_not_applied_is_sent_again(cli, cluster):
    cluster.create("t")
    problem = {"retriable": True, "outcome": "not_applied"}
    cluster.refuse(503, "LEADER_NOT_AVAILABLE", **problem)
    assert cli("produce", "t", "--no-idempotency", stdin=b"a", to=cluster)[0] == 0
    cluster.refuse(503, "NOT_ENOUGH_REPLICAS_AFTER_APPEND", retriable=True, outcome="unknown")
    assert cli("produce", "t", "--no-idempotency", stdin=b"a", to=cluster)[0] == 5
    assert cluster.values("t") == [b"a"]


def test_retriable_refusals_are_retried_at_the_next_broker(cli, three_brokers):
    three_brokers.create("t")
    three_brokers.refuse(503, "LEADER_NOT_AVAILABLE", times=2, retriable=True)
    assert cli("produce", "t", stdin=b"a", to=three_brokers)[0] == 0
    assert [call.broker for call in three_brokers.calls("POST")] == [1, 2, 3]


def test_retries_end_with_the_timeout(cli, cluster):
    cluster.create("t")
    cluster.refuse(503, "NOT_ENOUGH_REPLICAS", times=1_000, retriable=True)
    code, _, err = cli("produce", "t", "--timeout", 0.3, stdin=b"a", to=cluster)
    assert code == 5
    assert "`ottla cluster health`" in err
    assert 1 < len(cluster.calls("POST")) < 10


def test_a_refusal_for_good_is_not_retried_and_tells_how_far_it_got(cli, cluster, monkeypatch):
    monkeypatch.setattr(record_input, "BATCH_RECORDS_MAX", 1)
    cluster.create("t")
    code, _, err = cli("produce", "t", "--ndjson", stdin=b"1\n2\nx\n", to=cluster)
    assert code == 1
    assert err.splitlines()[0].startswith("only the first 2 records written to t")
    assert err.splitlines()[1].startswith("ottla: line 3: ")
    assert cluster.values("t") == [b"1", b"2"]


def test_a_part_of_a_batch_that_failed_fails_the_command():
    answer = (
        b'{"topic":"t","results":[{"partition":0,"base_offset":5,"count":1,"timestamp":1},'
        b'{"partition":1,"base_offset":-1,"count":1,"timestamp":-1,"error":{"status":503,'
        b'"code":"NOT_ENOUGH_REPLICAS","detail":"too few","retriable":true}}],"records":[]}'
    )

    class Connection(HttpConnection):
        def request(self, *_, **__):
            return producing.Answer(207, answer)

    with pytest.raises(CommandError, match="too few") as raised:
        producing.send_batch(
            Connection("a:1"), ProduceTarget("t", timeout_s=0.01), Batch(b"", 2, 2)
        )
    assert raised.value.exit_code == 5


def test_unordered_keeps_a_bounded_number_of_requests_in_flight(monkeypatch):
    in_flight = []
    seen = []
    all_busy = threading.Barrier(producing.UNORDERED_REQUESTS_MAX)

    def send(_connection, _target, batch):
        in_flight.append(batch)
        seen.append(len(in_flight))
        all_busy.wait(30)
        in_flight.remove(batch)
        return batch.records

    monkeypatch.setattr(producing, "send_batch", send)
    batches = [Batch(b"", number, 0) for number in range(2 * producing.UNORDERED_REQUESTS_MAX)]
    answers = list(send_batches(None, ProduceTarget("t", unordered=True), batches))
    assert answers == [(batch, batch.records) for batch in batches]
    assert max(seen) == producing.UNORDERED_REQUESTS_MAX


def test_unordered_writes_everything(cli, cluster, monkeypatch):
    monkeypatch.setattr(record_input, "BATCH_RECORDS_MAX", 2)
    cluster.create("t")
    lines = [b"%d" % number for number in range(31)]
    assert cli("produce", "t", "--unordered", stdin=b"\n".join(lines), to=cluster)[0] == 0
    assert sorted(cluster.values("t")) == sorted(lines)


def test_a_terminal_is_told_what_to_do_and_ctrl_d_ends(cluster):
    cluster.create("t")
    controller, terminal = pty.openpty()
    program = "import sys; from ottla._entry import main; sys.exit(main())"
    produce = subprocess.Popen(
        [sys.executable, "-c", program, "produce", "t", "--bootstrap", cluster.bootstrap],
        stdin=terminal,
        stderr=subprocess.PIPE,
    )
    os.close(terminal)
    assert b"Ctrl-D ends" in produce.stderr.readline()
    os.write(controller, b"typed\n\x04")
    _, stderr = produce.communicate(timeout=20)
    os.close(controller)
    assert produce.returncode == 0
    assert b"1 record written" in stderr
    assert cluster.values("t") == [b"typed"]


@pytest.mark.parametrize("options", [[], ["--ndjson"], ["--key", "k"]])
def test_every_record_gets_the_headers(cli, cluster, options):
    cluster.create("t", 1)
    arguments = ["-H", "trace=a=b", "--header", "trace=", *options]
    assert cli("produce", "t", *arguments, stdin=b"1\n2\n", to=cluster)[0] == 0
    records = cluster.calls("POST")[0].body["records"]
    assert [each["headers"] for each in records] == [[["trace", "a=b"], ["trace", ""]]] * 2


@pytest.mark.parametrize("header", ["trace", "=x"])
def test_a_header_has_a_name_and_a_text(cli, cluster, header):
    code, _, err = cli("produce", "t", "-H", header, stdin=b"1\n", to=cluster)
    assert code == 2
    assert "NAME=TEXT" in err
    assert cluster.calls() == []
