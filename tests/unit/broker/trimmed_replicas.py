"""Three replicas of one partition on real logs, and programs of trims and of what may undo one.

The brokers' own code takes the roles, the fetches and the metadata; fetches are carried by hand,
and so is the metadata, which reaches each broker late. A replica that is stopped leaves the ISR,
comes back with its files or with none, and joins again as soon as its leader would let it.
"""

import random
import shutil
from dataclasses import replace

import pytest

from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.peer_messages import FetchResult, ReplicatedBatch
from ottla_broker.storage.handles import HandlePool
from ottla_broker.storage.log_listeners import LogListeners
from ottla_broker.storage.partition_log import LogConfig, PartitionLog
from ottla_broker.storage.tail_cache import TailCache
from ottla_cluster.controller.image import Partition as PartitionState
from ottla_cluster.replication.follower import check_divergence
from ottla_protocol.errors import CorruptMessageError, OffsetOutOfRangeError
from ottla_protocol.record_batch import validate_batch
from ottla_protocol.record_codec import RecordData, decode_batch, encode_batch
from tests.unit.broker.disks import DiskOf

NODES = (1, 2, 3)
EPOCHS = {node_id: 10 + node_id for node_id in NODES}
FAR_MS = 10**9
ROUNDS = 12
"""Fetches within which a replica has all that there is."""

MEBIBYTE = 1 << 20


def records_in(batches, start):
    return {
        record.offset: record.value
        for batch in batches
        for record in decode_batch(batch.data, max_inflated_bytes=MEBIBYTE)
        if record.offset >= start
    }


class TrimmedReplicas:
    """One program.

    Attributes:
        state: what the controller has committed last.
        committed: every value that is known to be committed, by offset.
    """

    def __init__(self, root, seed):
        self.root = root
        self.random = random.Random(seed)
        self.state = PartitionState("t" * 32, "orders", 0, NODES, NODES, 1, 0, 0)
        self.running = {}
        self.committed = {}
        self.values = 0
        self.steps = (
            *(self.append, self.append, self.fetch, self.fetch, self.trim, self.trim),
            *(self.hear, self.move, self.stop, self.come_back, self.let_files_go),
        )

    async def run(self, steps):
        try:
            for node_id in NODES:
                await self.start(node_id)
            for _ in range(steps):
                await self.random.choice(self.steps)()
                await self.check()
            await self.settle()
            await self.note_committed()
            for partition in self.running.values():
                await self.check_copy(partition)
        finally:
            for partition in self.running.values():
                await partition.close()

    # --- brokers and metadata -------------------------------------------------------------------

    async def start(self, node_id):
        found = []
        log = await PartitionLog.open(
            self.root / f"broker-{node_id}" / "orders-0",
            topic="orders",
            topic_id=self.state.topic_id,
            partition=0,
            config=LogConfig(segment_bytes=self.random.choice((1, 400, MEBIBYTE))),
            handles=HandlePool(8),
            tail_cache=TailCache(self.random.choice((0, MEBIBYTE))),
            listeners=LogListeners(
                on_durable=lambda end: found and found[0].log_end_moved(end),
                on_failure=lambda error: pytest.fail(str(error)),
            ),
            first_offset=self.state.first_offset,
        )
        # It knows nothing of the high watermark: the checkpoint may be as old as that.
        partition = Partition(
            log,
            self.state,
            node_id=node_id,
            high_watermark=0,
            disk=DiskOf(free_bytes=1 << 40),
            replica_lag_time_max_ms=FAR_MS,
            lease_valid=lambda: True,
            propose=lambda *_: None,
        )
        found.append(partition)
        self.running[node_id] = partition
        await self.tell(node_id)

    async def tell(self, node_id):
        """The metadata as it is now reaches a broker."""
        partition = self.running[node_id]
        if self.state.leader == node_id:
            await partition.become_leader(
                self.state, min_insync_replicas=1, eligible=EPOCHS, draining=()
            )
            return
        known = partition.state.leader_epoch == self.state.leader_epoch
        if known and partition.follower is not None:
            partition.take_state(self.state)
        else:
            await partition.become_follower(self.state)

    def decide(self, **changes):
        self.state = replace(self.state, partition_epoch=self.state.partition_epoch + 1, **changes)

    @property
    def leader(self):
        """The leader that knows that it leads; None where it has not heard of it."""
        partition = self.running.get(self.state.leader)
        known = partition is not None and partition.leader is not None
        return (
            partition if known and partition.state.leader_epoch == self.state.leader_epoch else None
        )

    # --- steps ----------------------------------------------------------------------------------

    async def append(self):
        leader = self.leader
        if leader is None:
            return
        count = self.random.randint(1, 5)
        values = [b"%d" % (self.values + index) for index in range(count)]
        self.values += count
        batch = bytearray(encode_batch([RecordData(1, None, value) for value in values]))
        info = leader.append(
            batch, validate_batch(batch, on_append=True), acks_all=True, now_ms=1, idempotency=None
        ).info
        await leader.log.wait_durable(info.next_offset)

    async def fetch(self):
        for node_id, partition in self.running.items():
            if partition.follower is not None:
                await self.fetch_once(node_id, partition)

    async def fetch_once(self, node_id, partition):
        leader = self.leader
        position = partition.follower.fetch_position
        if leader is None or position.leader_epoch != leader.state.leader_epoch:
            return
        diverging = check_divergence(
            leader.log.leader_epochs,
            leader.log.next_offset,
            position.last_fetched_epoch,
            position.offset,
        )
        batches = ()
        if diverging is None:
            leader.follower_fetched(node_id, EPOCHS[node_id], position.offset)
            if position.offset >= leader.log.log_start_offset:
                batches = await leader.log.read(
                    position.offset, max_bytes=self.random.choice((1, 900)), limit=1 << 62
                )
        answer = FetchResult(
            topic_id=self.state.topic_id,
            partition=0,
            error_code=None,
            high_watermark=leader.high_watermark,
            log_start_offset=leader.log.log_start_offset,
            diverging=None if diverging is None else (diverging.epoch, diverging.end_offset),
            batches=[
                ReplicatedBatch(bytearray(batch.data), batch.idempotency) for batch in batches
            ],
        )
        try:
            await partition.take_fetched(position, answer)
        except CorruptMessageError as error:
            raise AssertionError(f"a follower refuses what its leader has: {error}") from error
        await partition.log.wait_durable(partition.log.next_offset)
        partition.follower_log_changed()

    async def trim(self):
        """Told to the leader at once, which is what an answer waits for; to others by `hear`."""
        leader = self.leader
        if leader is None or not leader.leader.latest_offset_available:
            return
        offset = max(0, leader.high_watermark - self.random.randint(0, 8))
        if offset > self.state.first_offset:
            self.state = replace(self.state, first_offset=offset)
            if self.random.random() < 0.8:
                await self.tell(self.state.leader)

    async def hear(self):
        for node_id in self.running:
            if self.random.random() < 0.5:
                await self.tell(node_id)

    async def move(self):
        """Another member of the ISR leads."""
        others = [n for n in self.state.isr if n in self.running and n != self.state.leader]
        if others:
            await self.elect(self.random.choice(others))

    async def elect(self, node_id, **changes):
        self.decide(leader=node_id, leader_epoch=self.state.leader_epoch + 1, **changes)
        await self.tell(node_id)
        await self.hear()

    async def stop(self):
        """A broker goes, as long as another of the ISR is there."""
        node_id = self.random.choice(sorted(self.running))
        isr = tuple(n for n in self.state.isr if n != node_id)
        if not any(n in self.running for n in isr):
            return
        await self.running.pop(node_id).close()
        if node_id == self.state.leader:
            await self.elect(next(n for n in isr if n in self.running), isr=isr)
        elif node_id in self.state.isr:
            self.decide(isr=isr)
            await self.tell(self.state.leader)
        if self.random.random() < 0.4:
            shutil.rmtree(self.root / f"broker-{node_id}")

    async def come_back(self):
        for node_id in NODES:
            if node_id not in self.running:
                await self.start(node_id)
                return
        await self.join()

    async def join(self):
        """Who has all that is committed joins the ISR, by the leader's own rule."""
        leader = self.leader
        for node_id, partition in self.running.items():
            if (
                leader is None
                or node_id in self.state.isr
                or not leader.leader.has_fetched(node_id)
            ):
                continue
            end = leader.leader.follower_log_end_offset(node_id)
            least = max(leader.high_watermark, leader.leader._epoch_start_offset)
            if end >= least and end <= partition.log.log_end_offset:
                isr = tuple(n for n in NODES if n in (*self.state.isr, node_id))
                self.decide(isr=isr)
                await self.tell(self.state.leader)

    async def let_files_go(self):
        for partition in self.running.values():
            await partition.log.cleanup.remove_expired()

    # --- what holds -------------------------------------------------------------------------------

    async def note_committed(self):
        """What a leader's high watermark has passed never changes from then on."""
        leader = self.leader
        if leader is None:
            return
        start = max((leader.log.log_start_offset, *self.committed))
        found = await self.stored(leader.log, start)
        for offset in range(start, leader.high_watermark):
            assert self.committed.setdefault(offset, found[offset]) == found[offset]

    async def stored(self, log, start):
        found, offset = {}, start
        while batches := await log.read(offset, max_bytes=MEBIBYTE, limit=1 << 62):
            found |= records_in(batches, start)
            offset = batches[-1].last_offset + 1
        return found

    async def check(self):
        await self.note_committed()
        for node_id, partition in self.running.items():
            start, end = partition.log.log_start_offset, partition.log.log_end_offset
            hidden = min(partition.state.first_offset, end)
            assert hidden <= start <= end, f"broker {node_id} begins at {start}, not at {hidden}"
            is_known = partition.leader is None or partition.high_watermark >= start
            assert is_known, f"broker {node_id} leads and begins above its high watermark"
        if self.leader is not None and self.leader.state.first_offset == self.state.first_offset:
            assert self.leader.log.log_start_offset >= self.state.first_offset
            await self.check_copy(self.leader)

    async def check_copy(self, partition):
        """All that it shows of what is committed is right, and nothing that was trimmed."""
        log, start = partition.log, partition.log.log_start_offset
        if start > 0:
            with pytest.raises(OffsetOutOfRangeError):
                await log.read(start - 1, max_bytes=1, limit=1 << 62)
        found = await self.stored(log, start)
        wanted = {o: value for o, value in self.committed.items() if o >= start}
        if partition is self.leader:
            assert wanted.items() <= found.items(), "a leader lacks what is committed"
        shown = {o: value for o, value in found.items() if o < partition.high_watermark}
        assert shown.items() <= wanted.items(), "what is shown is not what was committed"

    async def settle(self):
        """Everybody is back, hears all, and gets all."""
        for node_id in NODES:
            if node_id not in self.running:
                await self.start(node_id)
        for _ in range(ROUNDS):
            for node_id in self.running:
                await self.tell(node_id)
            for _ in range(ROUNDS):
                await self.fetch()
            await self.join()
        ends = {partition.log.log_end_offset for partition in self.running.values()}
        starts = {partition.log.log_start_offset for partition in self.running.values()}
        assert len(ends) == 1, f"the replicas end at {ends}"
        assert self.state.isr == NODES, f"only {self.state.isr} are in sync"
        assert min(starts) >= self.state.first_offset, f"the replicas begin at {starts}"
        assert self.leader.high_watermark == ends.pop()
