"""`ottla segment` and `ottla query` beside brokers that run and write."""

import json
import subprocess
import sys
import threading
import time

import pytest

from ottla import Producer
from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster

RECORDS = 3_000
TIMEOUT_S = 60
OTTLA = "import sys; from ottla._entry import main; sys.exit(main())"


def ottla(*arguments):
    """Runs the command in a process of its own; its lines of JSON."""
    ran = subprocess.run(
        [sys.executable, "-c", OTTLA, *map(str, arguments), "--json"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
    return [json.loads(line) for line in ran.stdout.splitlines()]


@pytest.fixture
def numbers(shared, topic):
    """A topic of numbers, and the brokers' addresses."""
    bootstrap = ",".join(shared.url(node_id) for node_id in shared.node_ids)
    first_ms = int(time.time() * 1000) - RECORDS
    with Producer(bootstrap, linger_ms=5) as producer:
        for number in range(RECORDS):
            producer.send(
                topic,
                b'{"n":%d}' % number,
                key=b"%d" % (number % 10),
                timestamp=first_ms + number,
            )
    return topic, bootstrap, first_ms


def data_directory(shared, node_id):
    return shared.cluster.broker(node_id).data_dir


def test_a_query_reads_the_cluster(numbers):
    topic, bootstrap, first_ms = numbers
    sql = (
        f"select key, count(*) as records, sum(value->>'n') as total from \"{topic}\" group by key"
    )
    assert ottla("query", sql, "--bootstrap", bootstrap) == [
        {
            "key": str(digit),
            "records": RECORDS // 10,
            "total": sum(range(digit, RECORDS, 10)),
        }
        for digit in range(10)
    ]
    sql = f'select count(*) as records, min(offset) as first from "{topic}" where '
    [found] = ottla("query", f"{sql} offset >= 2990", "--bootstrap", bootstrap)
    assert found == {"records": 10, "first": 2_990}
    bounds = f"timestamp between {first_ms + 100} and {first_ms + 199}"
    [found] = ottla("query", f"{sql} {bounds}", "--bootstrap", bootstrap)
    assert found == {"records": 100, "first": 100}


def test_files_of_running_brokers_are_read_while_they_are_written(shared, numbers, tmp_path):
    topic, bootstrap, _ = numbers
    stop = threading.Event()
    written = []

    def write():
        with Producer(bootstrap, linger_ms=1) as producer:
            while not stop.is_set():
                producer.send(topic, b'{"n":-1}', key=b"more").result(30)
                written.append(1)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        eventually(lambda: len(written) > 10)
        for node_id in shared.node_ids:
            directory = data_directory(shared, node_id)
            arguments = (directory, "--topic", topic)
            [verified] = ottla("segment", "verify", *arguments)
            assert verified["damaged_segments"] == 0
            assert verified["segments"][0]["records"] >= RECORDS
            [listed] = ottla("segment", "list", *arguments)
            assert [each["state"] for each in listed["segments"]] == ["active"]
            sql = f"select count(*) as records from \"{topic}\" where key <> 'more'"
            assert ottla("query", sql, "--data-dir", directory) == [{"records": RECORDS}]
        before = len(written)
        eventually(lambda: len(written) > before + 10)
    finally:
        stop.set()
        writer.join(TIMEOUT_S)
    target = tmp_path / "numbers.ndjson"
    [exported] = ottla(
        "segment", "export", "--topic", topic, "-o", target, "--bootstrap", bootstrap
    )
    assert exported["records"] == RECORDS + len(written)
    assert len(target.read_bytes().splitlines()) == RECORDS + len(written)
    assert all(shared.answers_quickly(node_id) for node_id in shared.node_ids)
