"""What was persisted is there after a restart; what was not acknowledged may be missing."""

from dataclasses import replace

import pytest

from ottla_broker.drivers.raft_store import SCHEMA, PersistedState, RaftStore
from ottla_broker.storage.sqlite import driver
from ottla_cluster.raft.configuration import Configuration, Voter, encode_configuration
from ottla_cluster.raft.messages import (
    FORMER_STARTS_MAX,
    Compaction,
    Entry,
    EntryKind,
    HardState,
    RememberedStart,
    Snapshot,
)
from ottla_protocol.errors import StorageError


async def reopened(path):
    store = RaftStore(path)
    try:
        return replace(await store.load("reopened"), start_count=1, former_incarnations=())
    finally:
        await store.close()


async def started(path, incarnation):
    store = RaftStore(path)
    try:
        persisted = await store.load(incarnation)
        return persisted.start_count, persisted.former_incarnations
    finally:
        await store.close()


@pytest.fixture
async def store(tmp_path):
    store = RaftStore(tmp_path / "raft.sqlite")
    await store.load("first")
    yield store
    await store.close()


async def test_a_new_store_is_empty(tmp_path):
    assert await reopened(tmp_path / "raft.sqlite") == PersistedState(HardState(), None, ())


async def test_a_vote_and_entries_survive(tmp_path, store):
    entries = [Entry(1, 1, b""), Entry(2, 1, b"records")]
    await store.persist(HardState(1, 3, 0), None, entries)
    await store.close()
    assert await reopened(tmp_path / "raft.sqlite") == PersistedState(
        HardState(1, 3, 0), None, tuple(entries)
    )


async def test_truncation_and_append_are_one_step(tmp_path, store):
    await store.persist(HardState(1, None, 0), None, [Entry(i, 1, b"old") for i in (1, 2, 3)])
    await store.persist(HardState(2, None, 1), 2, [Entry(2, 2, b"new")])
    await store.close()
    assert await reopened(tmp_path / "raft.sqlite") == PersistedState(
        HardState(2, None, 1), None, (Entry(1, 1, b"old"), Entry(2, 2, b"new"))
    )


async def test_a_half_made_file_of_an_earlier_start_is_replaced(tmp_path):
    (tmp_path / "raft.new").write_bytes(b"half")
    assert await reopened(tmp_path / "raft.sqlite") == PersistedState(HardState(), None, ())


def compaction(index, *, retained=0, data=b"state"):
    return Compaction(Snapshot(index, 1, data), index - retained, 1)


def statements(path, *lines):
    connection = driver.connect(path)
    found = [connection.execute(line).fetchall() for line in lines]
    connection.commit()
    connection.close()
    return found


async def test_a_snapshot_takes_the_place_of_entries(tmp_path, store):
    entries = [Entry(index, 1, b"x") for index in range(1, 7)]
    await store.persist(HardState(1, None, 0), None, entries)
    await store.persist(HardState(1, None, 4), None, (), compaction(4, retained=1))
    await store.persist(HardState(1, None, 5), None, (), compaction(5, retained=1, data=b"newer"))
    await store.close()
    assert await reopened(tmp_path / "raft.sqlite") == PersistedState(
        HardState(1, None, 5), compaction(5, retained=1, data=b"newer"), tuple(entries[4:])
    )


async def test_a_leaders_snapshot_replaces_the_whole_log_in_one_step(tmp_path, store):
    old = [Entry(index, 1, b"old") for index in range(1, 8)]
    await store.persist(HardState(1, None, 0), None, old)
    await store.persist(HardState(3, 2, 5), 6, [Entry(6, 3, b"new")], compaction(5))
    await store.close()
    assert await reopened(tmp_path / "raft.sqlite") == PersistedState(
        HardState(3, 2, 5), compaction(5), (Entry(6, 3, b"new"),)
    )


async def test_what_fails_in_between_leaves_all_as_it_was(tmp_path, store):
    await store.persist(HardState(1, None, 0), None, [Entry(i, 1, b"x") for i in (1, 2, 3)])
    with pytest.raises(StorageError):
        # Entry 3 is there already: the transaction fails after the snapshot was written.
        await store.persist(HardState(1, None, 2), None, [Entry(3, 1, b"x")], compaction(2))
    await store.close()
    found = await reopened(tmp_path / "raft.sqlite")
    assert (found.compaction, [entry.index for entry in found.entries]) == (None, [1, 2, 3])
    assert found.hard_state == HardState(1, None, 0)


async def test_a_file_from_before_snapshots_opens(tmp_path):
    path = tmp_path / "raft.sqlite"
    entry = "INSERT INTO entries VALUES (1, 1, x'00')"
    statements(path, *SCHEMA[:2], "INSERT INTO hard_state VALUES (1, 1, 2, 1)", entry)
    expected = PersistedState(HardState(1, 2, 1), None, (Entry(1, 1, b"\0"),))
    assert await reopened(path) == expected
    store = RaftStore(path)
    await store.load("first")
    await store.persist(HardState(1, 2, 1), None, (), compaction(1))
    await store.close()
    assert await reopened(path) == PersistedState(HardState(1, 2, 1), compaction(1), ())


async def test_a_file_from_before_the_log_named_its_voters_opens(tmp_path):
    path = tmp_path / "raft.sqlite"
    statements(
        path,
        *SCHEMA[:3],
        "INSERT INTO hard_state VALUES (1, 1, 2, 2)",
        "INSERT INTO entries VALUES (2, 1, x'00')",
        "INSERT INTO snapshot VALUES (1, 1, 1, 1, 1, 1725655263, CAST('state' AS BLOB))",
        "PRAGMA user_version=1",
    )
    found = await reopened(path)
    assert found.entries == (Entry(2, 1, b"\0", EntryKind.STATE_MACHINE),)
    assert found.compaction.snapshot == Snapshot(1, 1, b"state", None)


async def test_who_votes_survives_in_entries_and_in_the_snapshot(tmp_path, store):
    voters = Configuration((Voter(1, "directory of 1", "http://1"),), (Voter(2),))
    entry = Entry(2, 1, encode_configuration(voters), EntryKind.CONFIGURATION)
    cut = Compaction(Snapshot(1, 1, b"state", voters), 1, 1)
    await store.persist(HardState(1, None, 2), None, [Entry(1, 1, b"x"), entry])
    await store.persist(HardState(1, None, 2), None, (), cut)
    await store.close()
    assert await reopened(tmp_path / "raft.sqlite") == PersistedState(
        HardState(1, None, 2), cut, (entry,)
    )


OF_THE_VERSION_BEFORE = (
    "INSERT INTO entries VALUES (9, 1, x'00')",
    "INSERT OR REPLACE INTO snapshot VALUES (1, 1, 1, 1, 1, 1725655263, CAST('state' AS BLOB))",
    "INSERT OR REPLACE INTO hard_state VALUES (1, 1, 2, 1)",
)


async def test_the_version_before_can_take_it_back_until_the_log_names_its_voters(tmp_path, store):
    path = tmp_path / "raft.sqlite"
    remembered = [(2, RememberedStart("directory of 2", 1, "a", 1))]
    await store.persist(HardState(1, None, 0), None, [Entry(1, 1, b"x")], remembered=remembered)
    await store.close()
    assert statements(path, "PRAGMA user_version") == [[(1,)]]
    statements(path, *OF_THE_VERSION_BEFORE)
    found = await reopened(path)
    assert [entry.index for entry in found.entries] == [1, 9]
    assert found.compaction == compaction(1)
    store = RaftStore(path)
    await store.load("first")
    voters = Entry(10, 1, encode_configuration(Configuration((Voter(1),))), EntryKind.CONFIGURATION)
    await store.persist(HardState(1, None, 0), None, [voters])
    await store.close()
    assert statements(path, "PRAGMA user_version") == [[(2,)]]
    assert (await reopened(path)).entries[-1] == voters


async def test_what_was_cut_off_leaves_no_kind_behind(tmp_path, store):
    voters = encode_configuration(Configuration((Voter(1),)))
    entries = [Entry(index, 1, voters, EntryKind.CONFIGURATION) for index in (1, 2, 3)]
    await store.persist(HardState(1, None, 0), None, entries)
    await store.persist(HardState(2, None, 0), 3, [Entry(3, 2, b"x")])
    await store.persist(HardState(2, None, 0), None, (), compaction(1))
    await store.close()
    found = await reopened(tmp_path / "raft.sqlite")
    assert found.entries == (entries[1], Entry(3, 2, b"x"))
    assert statements(tmp_path / "raft.sqlite", "SELECT * FROM entry_kinds") == [[(2, 1)]]


async def test_every_start_is_counted_before_it_says_anything(tmp_path):
    starts = [await started(tmp_path / "raft.sqlite", name) for name in "abc"]
    assert starts == [(1, ()), (2, ("a",)), (3, ("b", "a"))]


async def test_only_the_last_starts_are_named(tmp_path):
    for number in range(2 * FORMER_STARTS_MAX):
        await started(tmp_path / "raft.sqlite", str(number))
    _, former = await started(tmp_path / "raft.sqlite", "last")
    assert former == tuple(map(str, range(2 * FORMER_STARTS_MAX - 1, FORMER_STARTS_MAX - 1, -1)))


async def test_starts_of_a_version_that_names_none_are_counted(tmp_path):
    """A file whose log names its voters has the highest format already."""
    path = tmp_path / "raft.sqlite"
    await started(path, "a")
    statements(path, "DROP TABLE start_incarnations", "PRAGMA user_version=2")
    assert await started(path, "b") == (2, ())
    statements(path, "UPDATE starts SET start_count = 4")
    assert await started(path, "c") == (5, ("", "", "b"))


async def test_what_is_remembered_of_others_survives(tmp_path, store):
    first, second = RememberedStart("a", 1, "x", 3), RememberedStart("b", 2, "y", 4)
    await store.persist(HardState(3, None, 0), None, (), None, [(2, first), (3, first)])
    await store.persist(HardState(4, None, 0), None, (), None, [(3, second)])
    await store.close()
    assert (await reopened(tmp_path / "raft.sqlite")).remembered == {2: first, 3: second}


async def test_a_state_that_is_set_aside_leaves_none(tmp_path, store):
    await store.persist(HardState(7, None, 0), None, [Entry(1, 7, b"x")])
    moved = await store.set_aside()
    assert await reopened(tmp_path / "raft.sqlite") == PersistedState(HardState(), None, ())
    assert (await reopened(moved)).hard_state == HardState(7, None, 0)


async def test_a_file_of_a_newer_version_is_refused(tmp_path, store):
    await store.close()
    statements(tmp_path / "raft.sqlite", "PRAGMA user_version=9")
    with pytest.raises(StorageError, match="format 9"):
        await reopened(tmp_path / "raft.sqlite")


async def test_a_damaged_snapshot_is_found(tmp_path, store):
    await store.persist(HardState(1, None, 1), None, (), compaction(1))
    await store.close()
    statements(tmp_path / "raft.sqlite", "UPDATE snapshot SET data = CAST('stabe' AS BLOB)")
    with pytest.raises(StorageError, match="CRC"):
        await reopened(tmp_path / "raft.sqlite")


async def test_the_file_stays_bounded_however_many_entries_there_were(tmp_path, store):
    """Each round writes half a megabyte; what the snapshots leave room for is used again."""
    path, sizes = tmp_path / "raft.sqlite", []
    for number in range(40):
        first = 1 + number * 64
        entries = [Entry(index, 1, b"x" * 8_192) for index in range(first, first + 64)]
        last = entries[-1].index
        await store.persist(HardState(1, None, last), None, entries)
        snapshot = compaction(last, data=b"s" * 100_000)
        await store.persist(HardState(1, None, last), None, (), snapshot)
        sizes.append(path.stat().st_size + path.with_name("raft.sqlite-wal").stat().st_size)
    # 25 MB were written; most of what is there is the write-ahead log.
    assert max(sizes) < 12 << 20, sizes
