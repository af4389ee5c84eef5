"""Opens logs under one directory with one handle pool and one tail cache, and makes batches."""

import asyncio
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ottla_broker.storage.group_commit import Group
from ottla_broker.storage.handles import HandlePool
from ottla_broker.storage.log_config import AppendInfo, LogConfig
from ottla_broker.storage.log_listeners import LogListeners
from ottla_broker.storage.partition_log import PartitionLog
from ottla_broker.storage.stored_batch import StoredBatch
from ottla_broker.storage.tail_cache import TailCache
from ottla_protocol.errors import StorageError
from ottla_protocol.idempotency import Idempotency
from ottla_protocol.record_batch import patch_batch, read_header
from ottla_protocol.record_codec import RecordData, encode_batch

TOPIC = "orders"
TOPIC_ID = "0b9f1f5e"
PARTITION = 3
UNLIMITED = 1 << 62


def make_batch(
    records: int = 1,
    *,
    value_bytes: int = 40,
    timestamp: int = 1_000,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
    fill: int = 0,
    transactional: bool = False,
) -> bytearray:
    """A batch as a producer sends it; `fill` makes contents differ."""
    value = bytes([fill % 256]) * value_bytes
    data = [RecordData(timestamp + index, None, value) for index in range(records)]
    return bytearray(
        encode_batch(
            data,
            producer_id=producer_id,
            producer_epoch=producer_epoch,
            base_sequence=base_sequence,
            is_transactional=transactional,
        )
    )


def stored_batch(
    base_offset: int,
    records: int = 1,
    *,
    leader_epoch: int = 0,
    idempotency: bytes | None = None,
    **fields: int,
) -> StoredBatch:
    """A batch as a leader has it, for followers."""
    data = make_batch(records, **fields)
    patch_batch(data, base_offset=base_offset, leader_epoch=leader_epoch)
    return StoredBatch(
        base_offset, base_offset + records - 1, leader_epoch, bytes(data), idempotency
    )


def request(number: int, body: int = 0) -> Idempotency:
    """The idempotency of one HTTP request."""
    return Idempotency(number.to_bytes(16, "big"), body.to_bytes(16, "big"))


def append(log: PartitionLog, records: int = 1, *, leader_epoch: int = 0, **fields) -> AppendInfo:
    """Append one batch as leader."""
    idempotency = fields.pop("idempotency", None)
    now_ms = fields.pop("now_ms", 0)
    batch = make_batch(records, **fields)
    return log.append_as_leader(
        batch,
        read_header(batch),
        leader_epoch=leader_epoch,
        now_ms=now_ms,
        idempotency=idempotency,
    )


async def append_durably(log: PartitionLog, records: int = 1, **fields) -> AppendInfo:
    """Append one batch as leader and wait for the disk."""
    info = append(log, records, **fields)
    await log.wait_durable(info.next_offset)
    return info


async def read_all(log: PartitionLog, *, max_bytes: int = 1 << 20) -> list[StoredBatch]:
    """Every batch of the log, over as many reads as it takes."""
    batches: list[StoredBatch] = []
    offset = log.log_start_offset
    while True:
        found = await log.read(offset, max_bytes=max_bytes, limit=UNLIMITED)
        if not found:
            return batches
        batches.extend(found)
        offset = found[-1].last_offset + 1


@dataclass
class LogHarness:
    """Every log that it opened is closed by `close`."""

    root: Path
    handles: HandlePool = field(default_factory=lambda: HandlePool(4))
    tail_cache: TailCache = field(default_factory=lambda: TailCache(0))
    now_ms: int = 0
    monotonic_ms: int = 0
    durable_ends: list[int] = field(default_factory=list)
    failures: list[StorageError] = field(default_factory=list)
    commits: list[tuple[Group, float]] = field(default_factory=list)
    _opened: list[PartitionLog] = field(default_factory=list)

    @property
    def directory(self) -> Path:
        return self.root / f"{TOPIC}-{PARTITION}"

    async def open(self, directory: Path | None = None, **config) -> PartitionLog:
        log = await PartitionLog.open(
            directory or self.directory,
            topic=TOPIC,
            topic_id=TOPIC_ID,
            partition=PARTITION,
            config=LogConfig(**config),
            handles=self.handles,
            tail_cache=self.tail_cache,
            listeners=LogListeners(
                on_durable=self.durable_ends.append,
                on_failure=self.failures.append,
                on_commit=lambda group, seconds: self.commits.append((group, seconds)),
            ),
            clock_ms=lambda: self.now_ms,
            monotonic_ms=lambda: self.monotonic_ms,
        )
        self._opened.append(log)
        return log

    async def reopen(self, log: PartitionLog, **config) -> PartitionLog:
        await log.close()
        return await self.open(log.directory, **config)

    def copy(self, name: str) -> Path:
        """What a crash of the process right now would leave: every file as it is."""
        target = self.root / name
        target.mkdir()
        for path in sorted(self.directory.iterdir()):
            # A file that is just being renamed into place is not there yet.
            with suppress(FileNotFoundError):
                shutil.copy2(path, target / path.name)
        return target

    async def copy_while_writing(self, log: PartitionLog, name: str) -> Path:
        """The same while the log is written: on the thread that commits and checkpoints, because
        a database copied before and its log copied after a checkpoint are no moment in time."""
        while True:
            active = log._files.active
            async with self.handles.use(active) as connection:
                # One that was sealed meanwhile holds nothing up: the next is on another thread.
                is_written = log._files.active is active and not active.sealed
                if is_written or log._commits.is_idle:
                    return await connection.run("copy", lambda _: self.copy(name))
            await asyncio.sleep(0)

    async def close(self) -> None:
        for log in self._opened:
            if log.failure is None:
                await log.close()
        await self.handles.close_all()

    def files(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())
