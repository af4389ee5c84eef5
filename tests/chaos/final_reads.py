"""What every broker holds in the end: read over HTTP from the start, and from the files."""

import base64
import binascii
import json
from dataclasses import dataclass

from tests.cluster.cluster_client import LOCAL_READ, stored_batches


@dataclass(frozen=True)
class FinalRead:
    """One broker's own copy of one partition, read from its start.

    Attributes:
        broker, partition: whose copy of what.
        log_start, high_watermark: between which offsets it was read.
        records: (offset, value, timestamp in ms), in the order of the answer.
    """

    broker: int
    partition: int
    log_start: int
    high_watermark: int
    records: tuple


@dataclass(frozen=True)
class StoredBatch:
    """One record batch in the files of a stopped broker; `checksum` covers all its bytes."""

    broker: int
    partition: int
    base_offset: int
    last_offset: int
    leader_epoch: int
    checksum: int


def read_copy(client, broker, topic, partition):
    """The copy of a broker as it is now."""
    records, offset, document = [], "earliest", None
    while True:
        answer = client.read(topic, partition, via=broker, offset=offset, **LOCAL_READ)
        document = answer.expect(200).document
        for record in document["records"]:
            value = json.loads(base64.b64decode(record["value_b64"]))
            records.append((record["offset"], value, record["timestamp"]))
        if not document["records"] or document["next_offset"] == document["high_watermark"]:
            return FinalRead(
                broker,
                partition,
                document["log_start_offset"],
                document["high_watermark"],
                tuple(records),
            )
        offset = document["next_offset"]


def read_files(cluster, broker, topic, partition):
    """The batches on the disk of a stopped broker."""
    return [
        StoredBatch(broker, partition, base, last, epoch, binascii.crc32(data))
        for base, last, epoch, data in stored_batches(cluster, broker, topic, partition)
    ]
