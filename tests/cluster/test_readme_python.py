"""The README's Python, run as a newcomer would paste it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.group_member import GroupMember

pytestmark = pytest.mark.cluster

README = Path(__file__).parents[2] / "README.md"
TIMEOUT_S = 90


def blocks():
    return re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


def test_each_block_runs_in_order_and_says_what_it_should(shared):
    """Only the brokers' addresses differ from the README, and how long the end is waited for."""
    outputs = []
    # The first group makes a topic of 16 partitions, which takes long on a busy machine.
    shared.create_topic("first-group", partitions=1)
    GroupMember(shared, "first-group", ["first-group"]).leave()
    for block in blocks():
        for node_id in shared.node_ids:
            address = shared.url(node_id).removeprefix("http://")
            block = block.replace(f"127.0.0.1:710{node_id}", address)
        assert "127.0.0.1:710" not in block
        block = block.replace("consumer_timeout_ms=2_000", "consumer_timeout_ms=6_000")
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-c", block],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        outputs.append(ran.stdout)
    admin_and_producer, asyncio_producer, consumer, asyncio_consumer = outputs
    assert re.fullmatch(r"departures [0-5] 0\n", admin_and_producer)
    assert int(asyncio_producer) > 0
    counts = [
        shared.offset("departures", partition).expect(200).document["offset"]
        for partition in range(6)
    ]
    assert sum(counts) == 1_001
    assert consumer == asyncio_consumer == "1001 records\n"
    for group in ("board", "gates"):
        described = shared.http.get(f"{shared.any_url()}/v1/groups/{group}").expect(200).document
        assert described["state"] == "empty", "every consumer has left"
        assert [each["lag"] for each in described["offsets"]] == [0] * 6
