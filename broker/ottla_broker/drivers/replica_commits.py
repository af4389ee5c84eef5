"""What a follower has taken and is slow to commit: one commit a partition.

A fetcher goes on with its other partitions meanwhile (`replica_fetcher`). What is on its way to the
disk is in memory, so the fetcher fetches no more while it is as much as COMMITTING_BYTES_MAX.
"""

import asyncio
from dataclasses import dataclass

from ottla_broker.storage.partition_log import PartitionLog

COMMITTING_BYTES_MAX = 16 << 20
"""How much of one leader may be on its way to the disks when the next fetch leaves; what that one
brings comes on top."""

PartitionKey = tuple[str, int]
"""Topic id and partition."""


@dataclass(frozen=True, slots=True)
class ReplicaCommit:
    """What one partition was given by one answer.

    Attributes:
        durable: done when it is; raises what `PartitionLog.wait_durable` raises.
        size_bytes: what waits for the disk.
        answered_ms: when the answer came, by the monotonic clock.
    """

    durable: "asyncio.Task[None]"
    size_bytes: int
    answered_ms: int


class ReplicaCommits:
    """The commits under way of the partitions that are followed at one leader."""

    def __init__(self) -> None:
        self._commits: dict[PartitionKey, ReplicaCommit] = {}
        self.size_bytes = 0
        """Of all batches in them."""

    def __len__(self) -> int:
        return len(self._commits)

    def __contains__(self, key: PartitionKey) -> bool:
        return key in self._commits

    @property
    def is_full(self) -> bool:
        """Whether no more may be fetched before one of them has ended."""
        return self.size_bytes >= COMMITTING_BYTES_MAX

    def begin(self, key: PartitionKey, log: PartitionLog, answered_ms: int) -> None:
        """Note what was appended to the partition's log, which has no commit in here."""
        assert key not in self._commits, key
        size_bytes = log.pending_bytes
        durable = asyncio.create_task(log.wait_durable(log.next_offset))
        self._commits[key] = ReplicaCommit(durable, size_bytes, answered_ms)
        self.size_bytes += size_bytes

    async def wait_for_one(self, timeout_ms: int) -> None:
        """Wait until one of them has ended, or the time is up."""
        await asyncio.wait(
            [commit.durable for commit in self._commits.values()],
            timeout=timeout_ms / 1000,
            return_when=asyncio.FIRST_COMPLETED,
        )

    def ended(self) -> list[PartitionKey]:
        """The partitions whose commits have ended, well or not."""
        return [key for key, commit in self._commits.items() if commit.durable.done()]

    def find(self, key: PartitionKey) -> ReplicaCommit | None:
        """The partition's commit, if there is one."""
        return self._commits.get(key)

    def remove(self, key: PartitionKey) -> None:
        """The partition's commit has ended and does not count any more."""
        self.size_bytes -= self._commits.pop(key).size_bytes
