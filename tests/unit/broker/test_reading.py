"""Polls over several partitions, some of which cannot be read."""

from types import SimpleNamespace

import pytest

from ottla_broker.drivers.purgatory import Purgatory, Watchers
from ottla_broker.services.consumer_reads import LeaderRead, LocalRead
from ottla_broker.services.reading import PartitionRead, poll
from ottla_broker.storage.stored_batch import StoredBatch
from ottla_cluster.replication.leader_epochs import LeaderEpochs
from ottla_protocol.errors import (
    LogTruncatedError,
    OffsetNotAvailableError,
    OffsetOutOfRangeError,
    ReplicaNotAvailableError,
)

BATCH_BYTES = 100


class Read(PartitionRead):
    """A partition with some batches, or with damage."""

    def __init__(self, found):
        super().__init__(None, 0, 1_000)
        self.found = found
        self.budgets = []

    @property
    def watchers(self):
        return Watchers()

    def limit(self):
        return 1_000

    async def look(self, budget_bytes):
        self.budgets.append(budget_bytes)
        if self.found is None:
            self.error = ReplicaNotAvailableError("damaged")
        else:
            self.batches = [StoredBatch(0, 0, 0, bytes(BATCH_BYTES), None)] * self.found


async def polled(*reads, max_bytes=1_000):
    # What has an error to tell does not park: that would need this purgatory.
    full = Purgatory(0)
    await poll(reads, min_bytes=10_000, max_bytes=max_bytes, max_wait_ms=60_000, purgatory=full)


@pytest.mark.parametrize("position", [0, 1, 2])
async def test_a_partition_that_cannot_be_read_holds_no_other_back(position):
    reads = [Read(1), Read(2)]
    reads.insert(position, Read(None))
    await polled(*reads)
    assert [len(read.batches) for read in reads if read.found] == [1, 2]
    assert [read.error is not None for read in reads] == [n == position for n in range(3)]


async def test_what_is_found_behind_an_error_is_bounded_as_before():
    reads = [Read(None), Read(3), Read(1), Read(1)]
    await polled(*reads, max_bytes=300)
    assert [read.budgets for read in reads] == [[300], [300], [], []]


@pytest.mark.parametrize(
    ("leader", "offset", "error"),
    [
        # Its disk was replaced: whoever reads it waits, and begins nowhere else.
        (None, 12, OffsetNotAvailableError),
        (None, 3, OffsetOutOfRangeError),
        (None, 10, type(None)),
        (object(), 12, OffsetOutOfRangeError),
    ],
)
async def test_a_copy_that_is_behind_says_so_and_its_leader_knows_the_end(leader, offset, error):
    log = SimpleNamespace(log_start_offset=5, next_offset=10, read_tail=lambda *_, **__: [])
    partition = SimpleNamespace(
        leader=leader,
        log=log,
        fitness=SimpleNamespace(lost_tail=False),
        high_watermark=9,
        name="orders-0",
    )
    read = LocalRead(partition, offset, 1_000)
    await read.look(1_000)
    assert type(read.error) is error


@pytest.mark.parametrize(
    ("offset", "last_fetched_epoch", "divergent_offset"),
    [
        # Epoch 6 was elected with the log up to 8, and 9 with all of that of 6.
        (10, 5, 8),
        (9, 3, 6),
        (8, 5, None),
        (15, 6, None),
        (16, 8, 15),
        (20, 9, None),
        (10, None, None),
        # Retention has taken what the reader read, and more.
        (6, 2, None),
    ],
)
async def test_a_reader_of_what_an_election_took_away_is_told(
    offset, last_fetched_epoch, divergent_offset
):
    log = SimpleNamespace(
        log_start_offset=6,
        next_offset=20,
        leader_epochs=LeaderEpochs.of([(5, 6), (6, 8), (9, 15)]),
        read_tail=lambda *_, **__: [],
    )
    state = SimpleNamespace(leader_epoch=9, partition=0)
    partition = SimpleNamespace(
        state=state,
        log=log,
        high_watermark=20,
        name="orders-0",
        leading=lambda: SimpleNamespace(may_be_acknowledged=lambda _: False),
    )
    read = LeaderRead(partition, offset, 1_000, last_fetched_epoch)
    await read.look(1_000)
    assert read.leader_epoch == 9
    if divergent_offset is None:
        assert read.error is None
    else:
        assert isinstance(read.error, LogTruncatedError)
        assert read.error.members["divergent_offset"] == divergent_offset
