"""What every broker holds in the end: read over HTTP from the start, and from the files.

The topics are read alike; what a record is told as differs. Of the clients' own topic it is the
JSON value that one of them sent, of a topic of the brokers' own the key and value.
"""

import base64
import binascii
import json
import sqlite3
from dataclasses import dataclass

from ottla_protocol import record_batch
from ottla_protocol.errors import OttlaError
from ottla_protocol.record_codec import decode_batch
from tests.chaos.evidence import Evidence
from tests.cluster.awaiting import eventually
from tests.cluster.cluster_client import LOCAL_READ, stored_batches

AGREE_TIMEOUT_S = 60.0
INFLATED_BYTES_MAX = 1 << 30
FORWARDED_READ = {name: told for name, told in LOCAL_READ.items() if name != "replica"}


@dataclass(frozen=True)
class FinalRead:
    """One partition, read from its start through one broker.

    Attributes:
        broker, partition: through whom, and what.
        log_start, high_watermark: between which offsets it was read.
        records: (offset, what was told, timestamp in ms), in the order of the answer.
        is_own: whether it is the broker's own copy; else what it passed on from the leader.
    """

    broker: int
    partition: int
    log_start: int
    high_watermark: int
    records: tuple
    is_own: bool = True


@dataclass(frozen=True)
class StoredBatch:
    """One record batch in the files of a stopped broker.

    Attributes:
        broker, partition: where it is.
        base_offset, last_offset, leader_epoch: as the file says.
        checksum: of all its bytes.
        records: as in a `FinalRead`; none of a batch that cannot be read.
    """

    broker: int
    partition: int
    base_offset: int
    last_offset: int
    leader_epoch: int
    checksum: int
    records: tuple = ()


def json_value(_key, value):
    """What a record of a topic of JSON values is told as."""
    return None if value is None else json.loads(value)


def key_and_value(key, value):
    """What a record of a compacted topic is told as."""
    return (key, value)


def read_copy(client, broker, topic, partition, told_as=json_value, *, is_own=True):
    """What is told through a broker now."""
    records, offset = [], "earliest"
    query = LOCAL_READ if is_own else FORWARDED_READ
    while True:
        answer = client.read(topic, partition, via=broker, offset=offset, **query)
        document = answer.expect(200).document
        for record in document["records"]:
            told = told_as(_bytes_of(record, "key_b64"), _bytes_of(record, "value_b64"))
            records.append((record["offset"], told, record["timestamp"]))
        if not document["records"] or document["next_offset"] == document["high_watermark"]:
            return FinalRead(
                broker,
                partition,
                document["log_start_offset"],
                document["high_watermark"],
                tuple(records),
                is_own,
            )
        offset = document["next_offset"]


def _bytes_of(record, name):
    told = record.get(name)
    return None if told is None else base64.b64decode(told)


def read_files(cluster, broker, topic, partition, told_as=json_value):
    """The batches on the disk of a stopped broker."""
    return [
        StoredBatch(
            broker, partition, base, last, epoch, binascii.crc32(data), _records(data, told_as)
        )
        for base, last, epoch, data in stored_batches(cluster, broker, topic, partition)
    ]


def _records(data, told_as):
    try:
        if record_batch.read_header(data).is_control:
            return ()
        return tuple(
            (record.offset, told_as(record.key, record.value), record.timestamp)
            for record in decode_batch(data, max_inflated_bytes=INFLATED_BYTES_MAX)
        )
    except (OttlaError, ValueError):
        # The checks miss what should be there.
        return ()


class FinalReads:
    """Everything of one topic, read while the brokers run (`read`), then from their files.

    Args:
        client: of the cluster, whose brokers are all well.
        topic: its name.
        replication_factor: how many brokers have to hold each partition.
        told_as: `json_value` or `key_and_value`.

    Attributes:
        problems: what kept it from being read as it should be.
    """

    def __init__(self, client, topic, replication_factor, told_as=json_value):
        self.problems = []
        self._client = client
        self._topic = topic
        self._replication_factor = replication_factor
        self._told_as = told_as
        self._copies = []
        self._replicas = {}

    def read(self):
        """Read every partition through every broker, once they agree; else as they are."""
        for state in self._client.describe(self._topic)["partitions"]:
            partition, replicas = state["partition"], state["replicas"]
            self._replicas[partition] = tuple(replicas)
            where = f"{self._topic}-{partition}"
            if len(set(replicas)) != self._replication_factor:
                self.problems.append(f"{where} has the replicas {replicas}")
            try:
                self._copies += eventually(
                    lambda partition=partition: self._agreed(partition), AGREE_TIMEOUT_S
                )
            except Exception as error:
                self.problems.append(f"replicas of {where} do not agree: {error}")
                self._read_as_they_are(partition)

    def evidence(self, operations=()):
        """What is known of the topic now that the brokers are stopped."""
        batches = []
        for partition in self._replicas:
            for broker in self._client.node_ids:
                batches += self._files(broker, partition)
        return Evidence(
            list(operations),
            self._copies,
            batches,
            brokers=tuple(self._client.node_ids),
            replicas=self._replicas,
        )

    def _files(self, broker, partition):
        try:
            return read_files(self._client.cluster, broker, self._topic, partition, self._told_as)
        except sqlite3.Error as error:
            where = f"{self._topic}-{partition}"
            self.problems.append(f"files of {where} on broker {broker} cannot be read: {error!r}")
            return []

    def _agreed(self, partition):
        copies = [self._read(broker, partition) for broker in self._client.node_ids]
        ends = {copy.broker: copy.high_watermark for copy in copies}
        assert len(set(ends.values())) == 1, f"it ends at {ends}, by broker"
        return copies

    def _read_as_they_are(self, partition):
        for broker in self._client.node_ids:
            try:
                self._copies.append(self._read(broker, partition))
            except Exception as error:
                self.problems.append(
                    f"{self._topic}-{partition} cannot be read through broker {broker}: {error!r}"
                )

    def _read(self, broker, partition):
        is_own = broker in self._replicas[partition]
        return read_copy(self._client, broker, self._topic, partition, self._told_as, is_own=is_own)
