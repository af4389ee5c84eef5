"""What is written down of the logs' ends while replicas lose records."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest

from ottla_broker.drivers.witness_keeper import WitnessKeeper
from ottla_broker.storage.disk_full import DiskFullError
from ottla_broker.storage.end_witness import EndWitness, WitnessedEnd
from ottla_broker.storage.sqlite import Durability
from ottla_cluster.replication.fitness import ReplicaFitness
from ottla_cluster.replication.leader_epochs import LeaderEpochs

KEY = ("a" * 32, 0)


class Replica:
    """As much of a hosted replica as the witness asks for."""

    key = KEY
    name = "orders-0"

    def __init__(self, durability="fsync"):
        self.fitness = ReplicaFitness(1, lost_tail=False)
        self.log = SimpleNamespace(
            durability=Durability(durability),
            log_start_offset=7,
            log_end_offset=100,
            leader_epochs=LeaderEpochs.of([(1, 0)]),
            failure=None,
        )


class Keeper:
    """One replica and its witness."""

    def __init__(self, directory, *, boot_id=None, **replica):
        self.path = directory / "witness"
        self.replica = Replica(**replica)
        self.witness = EndWitness(self.path, boot_id=boot_id)
        self.keeper = WitnessKeeper(
            self.witness, partition={KEY: self.replica}.get, on_failure=pytest.fail
        )

    def written(self):
        witness = EndWitness(self.path)
        try:
            return witness.ends.get(KEY)
        finally:
            witness.close()


BOOT_ID = bytes(range(16))


@pytest.mark.parametrize(
    ("durability", "boot_id", "written"),
    [
        ("fsync", BOOT_ID, WitnessedEnd(1, 100, start_offset=7)),
        ("fsync", None, WitnessedEnd(1, 100, start_offset=7)),
        ("os", BOOT_ID, WitnessedEnd(1, 100, boot_id=BOOT_ID, start_offset=7)),
        ("os", None, None),
    ],
)
async def test_a_log_that_does_not_sync_outlasts_its_process_only(
    tmp_path, durability, boot_id, written
):
    kept = Keeper(tmp_path, durability=durability, boot_id=boot_id)
    kept.keeper.moved(KEY)
    await kept.keeper.flush()
    assert kept.written() == written
    lowered = None if written is None else replace(written, end_offset=60)
    async with kept.keeper.truncating(kept.replica, 60):
        assert kept.written() == lowered
        kept.replica.log.log_end_offset = 60
    await kept.keeper.flush()
    assert kept.written() == lowered
    await kept.keeper.stop()


@pytest.fixture(params=["fsync", "os"])
async def kept(tmp_path, request):
    kept = Keeper(tmp_path, durability=request.param)
    yield kept
    await kept.keeper.stop()


async def test_a_loss_that_is_being_written_down_is_not_overwritten(kept):
    kept.keeper.moved(KEY)
    kept.replica.fitness.cut()
    marking = asyncio.create_task(kept.keeper.mark_short(KEY, 100))
    await asyncio.sleep(0)
    # What was on its way when the loss was found, and what comes behind it.
    await kept.keeper.flush()
    kept.keeper.moved(KEY)
    await kept.keeper.flush()
    await marking
    assert kept.written() == WitnessedEnd(-1, 100, is_short=True)


async def test_a_loss_is_known_before_it_is_written_down(kept):
    with pytest.raises(AssertionError):
        await kept.keeper.mark_short(KEY, 100)


async def test_a_disk_without_room_neither_keeps_a_replica_nor_the_broker_from_going(
    tmp_path, monkeypatch
):
    kept = Keeper(tmp_path)
    kept.keeper.moved(KEY)
    await kept.keeper.flush()

    def no_room():
        raise DiskFullError("no room")

    monkeypatch.setattr(kept.witness, "flush", no_room)
    await kept.keeper.forget(KEY)
    assert kept.witness.is_dirty
    await kept.keeper.stop()


@pytest.mark.parametrize("is_short", [False, True])
async def test_a_start_is_written_down_before_files_go(tmp_path, is_short):
    kept = Keeper(tmp_path)
    kept.keeper.moved(KEY)
    await kept.keeper.flush()
    if is_short:
        kept.replica.fitness.cut()
        await kept.keeper.mark_short(KEY, 100)
    kept.replica.log.log_start_offset = 40
    await kept.keeper.before_removal(kept.replica)
    assert (kept.written().start_offset, kept.written().is_short) == (40, is_short)
    await kept.keeper.stop()


async def test_a_log_that_is_being_truncated_is_told_of_as_what_it_will_be(tmp_path):
    kept = Keeper(tmp_path)
    kept.keeper.moved(KEY)
    await kept.keeper.flush()
    async with kept.keeper.truncating(kept.replica, 60):
        # Retention goes on meanwhile.
        kept.replica.log.log_start_offset = 40
        await kept.keeper.before_removal(kept.replica)
        assert kept.written() == WitnessedEnd(1, 60, start_offset=40)
        kept.replica.log.log_end_offset = 60
    kept.replica.log.log_end_offset = 80
    await kept.keeper.flush()
    assert kept.written() == WitnessedEnd(1, 80, start_offset=40)
    await kept.keeper.stop()


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_log_that_begins_anew_is_told_of_when_it_has_begun(tmp_path, is_known):
    kept = Keeper(tmp_path)
    if is_known:
        kept.keeper.moved(KEY)
        await kept.keeper.flush()
    async with kept.keeper.truncating(kept.replica, None):
        kept.keeper.moved(KEY)
        await kept.keeper.flush()
        assert kept.written() is None
    await kept.keeper.flush()
    assert kept.written() == WitnessedEnd(1, 100, start_offset=7)
    await kept.keeper.stop()


async def test_a_log_that_could_not_be_truncated_ends_where_it_did(tmp_path):
    kept = Keeper(tmp_path)
    kept.keeper.moved(KEY)
    await kept.keeper.flush()
    with pytest.raises(DiskFullError):
        async with kept.keeper.truncating(kept.replica, 60):
            raise DiskFullError("no room")
    assert kept.written().end_offset == 60
    await kept.keeper.flush()
    assert kept.written().end_offset == 100
    await kept.keeper.stop()
