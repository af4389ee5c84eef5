"""Backup of topics that are in use, with the `ottla` command, against real brokers."""

import json
import threading

import pytest

from ottla_ops.backup.chunk_files import read_chunk
from ottla_ops.backup.verification import read_manifest
from ottla_protocol import routes
from ottla_protocol.record_codec import decode_batch
from tests.cluster.awaiting import eventually
from tests.cluster.test_segment_tools import ottla

pytestmark = pytest.mark.cluster

MEBIBYTE = 1 << 20


def bootstrap_of(client):
    return ",".join(client.url(node_id) for node_id in client.node_ids)


def backed_up(directory, topic):
    """By partition: {offset: value} of what the backup has of the topic."""
    [found] = [each for each in read_manifest(directory).topics if each.name == topic]
    return [
        {
            record.offset: json.loads(record.value)
            for chunk in partition.chunks
            for batch, _ in read_chunk(directory, chunk)
            for record in decode_batch(batch, max_inflated_bytes=MEBIBYTE)
        }
        for partition in found.partitions
    ]


def test_a_backup_has_all_that_was_committed_when_it_began(shared, topic, tmp_path):
    shared.append(topic, *range(100))
    commit = {"offsets": [{"topic": topic, "partition": 0, "offset": 40, "metadata": "note"}]}
    group = f"group-of-{topic}"
    path = routes.GROUP_OFFSETS.format(group=group)
    shared.http.post(shared.any_url() + path, commit).expect(200)
    stop, written = threading.Event(), []

    def write():
        while not stop.is_set():
            written.append(shared.append(topic, *range(10)))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        eventually(lambda: len(written) > 2)
        [made] = ottla("--bootstrap", bootstrap_of(shared), "backup", tmp_path / "b", topic)
        count = len(written)
        eventually(lambda: len(written) > count)
    finally:
        stop.set()
        writer.join()

    [found] = backed_up(tmp_path / "b", topic)
    [told] = made["topics"][0]["partitions"]
    assert list(found) == list(range(told["end_offset"]))
    assert 120 <= told["end_offset"] <= 100 + 10 * len(written)
    stored = shared.values(topic)
    assert found == {offset: stored[offset] for offset in found}
    [committed] = read_manifest(tmp_path / "b").groups
    assert committed.group == group
    [offset] = committed.offsets
    assert (offset.offset, offset.metadata) == (40, "note")
    [verified] = ottla("backup", "verify", tmp_path / "b")
    assert verified == made
