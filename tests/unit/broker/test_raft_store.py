"""What was persisted is there after a restart; what was not acknowledged may be missing."""

import pytest

from ottla_broker.drivers.raft_store import RaftStore
from ottla_cluster.raft.messages import Entry, HardState


async def reopened(path):
    store = RaftStore(path)
    try:
        return await store.load()
    finally:
        await store.close()


@pytest.fixture
async def store(tmp_path):
    store = RaftStore(tmp_path / "raft.sqlite")
    await store.load()
    yield store
    await store.close()


async def test_a_new_store_is_empty(tmp_path):
    assert await reopened(tmp_path / "raft.sqlite") == (HardState(), ())


async def test_a_vote_and_entries_survive(tmp_path, store):
    entries = [Entry(1, 1, b""), Entry(2, 1, b"records")]
    await store.persist(HardState(1, 3, 0), None, entries)
    await store.close()
    assert await reopened(tmp_path / "raft.sqlite") == (HardState(1, 3, 0), tuple(entries))


async def test_truncation_and_append_are_one_step(tmp_path, store):
    await store.persist(HardState(1, None, 0), None, [Entry(i, 1, b"old") for i in (1, 2, 3)])
    await store.persist(HardState(2, None, 1), 2, [Entry(2, 2, b"new")])
    await store.close()
    hard_state, entries = await reopened(tmp_path / "raft.sqlite")
    assert hard_state == HardState(2, None, 1)
    assert entries == (Entry(1, 1, b"old"), Entry(2, 2, b"new"))


async def test_a_half_made_file_of_an_earlier_start_is_replaced(tmp_path):
    (tmp_path / "raft.new").write_bytes(b"half")
    assert await reopened(tmp_path / "raft.sqlite") == (HardState(), ())
