"""Replicas on disk as a broker leaves them, for the tools that look into files."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

from ottla_broker.storage.handles import HandlePool
from ottla_broker.storage.log_config import LogConfig
from ottla_broker.storage.log_listeners import LogListeners
from ottla_broker.storage.partition_log import PartitionLog
from ottla_broker.storage.tail_cache import TailCache
from ottla_protocol.record_batch import Compression, read_header
from ottla_protocol.record_codec import RecordData, encode_batch

TOPIC_ID = "0b9f1f5e"


def record(timestamp, key, value, headers=()):
    """A record; text becomes bytes, anything else but bytes and None becomes JSON."""
    if not isinstance(value, bytes | None):
        value = (value if isinstance(value, str) else json.dumps(value)).encode()
    return RecordData(timestamp, key if key is None else key.encode(), value, headers)


@dataclass
class DataDirectory:
    """Writes logs under `root`; the newest segment is what a clean stop or a crash leaves."""

    root: Path
    segment_bytes: int = 1 << 30

    def path(self, topic, partition=0):
        return self.root / f"{topic}-{partition}"

    def write(self, topic, *batches, partition=0, compression=Compression.NONE):
        """Append batches (lists of records) and close the log."""
        asyncio.run(self._write(topic, partition, batches, compression))
        return self.path(topic, partition)

    async def _write(self, topic, partition, batches, compression):
        handles = HandlePool(4)
        log = await self.open_log(topic, partition, handles)
        for records in batches:
            await append(log, records, compression)
        await log.close()
        await handles.close_all()

    async def open_log(self, topic, partition, handles):
        return await PartitionLog.open(
            self.path(topic, partition),
            topic=topic,
            topic_id=TOPIC_ID,
            partition=partition,
            config=LogConfig(segment_bytes=self.segment_bytes),
            handles=handles,
            tail_cache=TailCache(0),
            listeners=LogListeners(on_durable=lambda _: None, on_failure=lambda _: None),
            clock_ms=lambda: 0,
            monotonic_ms=lambda: 0,
        )


async def append(log, records, compression=Compression.NONE):
    """Append one batch and wait for the disk."""
    batch = bytearray(encode_batch(records, compression=compression))
    info = log.append_as_leader(
        batch, read_header(batch), leader_epoch=0, now_ms=0, idempotency=None
    )
    await log.wait_durable(info.next_offset)
