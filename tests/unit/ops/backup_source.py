"""A cluster in memory that a backup is made of."""

from ottla_ops.backup.creation import BackupCreation
from ottla_ops.backup.pace import Pace
from ottla_protocol.errors import LogTruncatedError, OffsetOutOfRangeError
from ottla_protocol.models import FetchedPartition, PartitionDescription, TopicDescription
from ottla_protocol.record_batch import patch_batch, read_header
from ottla_protocol.record_codec import RecordData, encode_batch

TOPIC_ID = "a" * 32


def batch_at(base_offset, records=1, value=b"value", leader_epoch=0, **fields):
    data = [RecordData(1_000 + n, b"key", value, ()) for n in range(records)]
    batch = bytearray(encode_batch(data, base_offset=base_offset, **fields))
    patch_batch(batch, base_offset=base_offset, leader_epoch=leader_epoch)
    return bytes(batch)


class FakeSource:
    """One topic; `logs` has the batches of each partition."""

    def __init__(self, logs, *, starts=None, ends=None, groups=()):
        self.logs = [list(log) for log in logs]
        self.starts = starts or [0] * len(logs)
        self.ends = ends or [
            read_header(log[-1]).next_offset if log else start
            for log, start in zip(self.logs, self.starts, strict=True)
        ]
        self.committed = list(groups)
        self.before_fetch = lambda: None
        self.hidden = set()
        """Base offsets of what a reader of committed records is not shown."""
        self.latest = None
        self.batches_max = 100
        self.topic_id = TOPIC_ID
        self.epochs = {}
        """Leader epoch: where it begins, by an election without all that was read before."""

    def cluster_id(self):
        return "local"

    def topics(self, names):
        assert names in ([], ["flights"])
        partitions = [
            PartitionDescription(number, 1, 0, [1, 2], [1, 2]) for number in range(len(self.logs))
        ]
        return [TopicDescription("flights", TOPIC_ID, partitions, {})]

    def own_configs(self, topic):
        return {"retention.ms": 5}

    def offset(self, topic, partition, at):
        if at == "latest" and self.latest is not None:
            return self.latest
        return (self.starts if at == "earliest" else self.ends)[partition]

    def fetch(self, topic, partition, offset, max_bytes, last_epoch):
        self.before_fetch()
        for epoch, begins_at in self.epochs.items():
            if last_epoch is not None and last_epoch < epoch and begins_at < offset:
                raise LogTruncatedError("an unclean election", divergent_offset=begins_at)
        start, end = self.starts[partition], self.ends[partition]
        if offset < start:
            raise OffsetOutOfRangeError("below the log's start")
        found, size, next_offset = [], 0, None
        for batch in self.logs[partition]:
            header = read_header(batch)
            if header.next_offset <= offset or header.next_offset > end:
                continue
            if found and (size + len(batch) > max_bytes or len(found) == self.batches_max):
                break
            if self.hidden:
                next_offset = header.next_offset
            if header.base_offset in self.hidden:
                continue
            found.append(memoryview(bytes(batch)))
            size += len(batch)
        return FetchedPartition(
            topic,
            partition,
            found,
            self.latest or end,
            start,
            topic_id=self.topic_id,
            leader_epoch=1,
            next_offset=next_offset,
            last_stable_offset=end if self.hidden else None,
        )

    def groups(self, partitions):
        assert partitions == {"flights": len(self.logs)}
        return self.committed


def create(
    source,
    directory,
    *,
    chunk_bytes=200,
    with_groups=True,
    on_records=lambda _: None,
    on_note=lambda _: None,
):
    creation = BackupCreation(
        source,
        directory,
        pace=Pace(None),
        timeout_s=5,
        wall_clock_ms=lambda: 1_700_000_000_000,
        monotonic_s=lambda: 0.0,
        on_records=on_records,
        on_note=on_note,
        chunk_bytes=chunk_bytes,
    )
    return creation.create([], with_groups=with_groups)
