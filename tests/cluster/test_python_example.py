"""The example that books transfers: killed at work, and started again."""

import json
import os
import subprocess
import sys
from collections import Counter
from itertools import count
from pathlib import Path

import pytest

from ottla import Producer
from tests.cluster.awaiting import eventually
from tests.cluster.committed_reads import WAIT_S, committed_values

pytestmark = pytest.mark.cluster

PROGRAM = Path(__file__).parents[2] / "clients" / "examples" / "python" / "book_transfers.py"
TRANSFERS = 100

_numbers = count(1)


def with_topic(client, name):
    client.create_topic(name, partitions=3, replication_factor=3)
    client.wait_led(name, partitions=3)
    return name


@pytest.mark.timeout(300)
def test_each_transfer_is_booked_once_and_whole(shared):
    number = next(_numbers)
    transfers = with_topic(shared, f"transfers-{number}")
    postings = with_topic(shared, f"postings-{number}")
    servers = [shared.url(node_id) for node_id in shared.node_ids]
    with Producer(servers, value_serializer="json") as producer:
        for each in range(TRANSFERS):
            transfer = {"id": each, "from": f"account-{each % 7}", "to": "bank", "amount": each}
            producer.send(transfers, transfer, partition=each % 3)
    command = [sys.executable, PROGRAM, transfers, postings, f"booking-{number}", f"book-{number}"]
    environment = {**os.environ, "OTTLA_BOOTSTRAP": ",".join(servers)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as first:
        # More is under way by the time that it is killed.
        assert first.stdout.readline().startswith("booked ")
        first.kill()
    ran = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=WAIT_S * 3
    )
    assert ran.returncode == 0, ran.stderr
    wanted = Counter((each, amount) for each in range(TRANSFERS) for amount in (-each, each))

    def booked():
        parts = committed_values(shared, postings)
        stored = [json.loads(value) for part in parts for value in part]
        return Counter((posting["id"], posting["amount"]) for posting in stored)

    eventually(lambda: booked() == wanted, WAIT_S)
