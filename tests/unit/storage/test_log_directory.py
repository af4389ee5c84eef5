"""The data directory: lock, identity, replicas, checkpoint."""

import stat
import subprocess
import sys

import pytest

from ottla_broker.storage.log_directory import (
    DirectoryIdentityError,
    DirectoryLockedError,
    LogDirectory,
    high_watermark_key,
)
from ottla_broker.storage.replica_directory import prepare_replica_directory
from ottla_protocol.errors import StorageError
from tests.unit.storage.log_harness import append_durably


@pytest.fixture
def directory(tmp_path):
    with LogDirectory(tmp_path / "data") as opened:
        yield opened


def make_replica(directory, topic, topic_id, partition):
    path = directory.replica_path(topic, partition)
    prepare_replica_directory(path, topic, topic_id, partition)
    return path


def test_the_directory_is_made_private(directory):
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700


def test_a_second_holder_is_refused(directory):
    with pytest.raises(DirectoryLockedError, match="another process"):
        LogDirectory(directory.path)


def test_a_second_process_is_refused_until_the_first_ends(directory):
    program = (
        "import sys, pathlib\n"
        "from ottla_broker.storage.log_directory import LogDirectory\n"
        "LogDirectory(pathlib.Path(sys.argv[1])).close()\n"
    )
    command = [sys.executable, "-c", program, str(directory.path)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert "DirectoryLockedError" in refused.stderr


def test_the_lock_ends_with_its_holder(tmp_path):
    LogDirectory(tmp_path / "data").close()
    LogDirectory(tmp_path / "data").close()


def test_the_directory_belongs_to_one_node_of_one_cluster(directory):
    directory.claim(1, "local")
    directory.claim(1, "local")
    with pytest.raises(DirectoryIdentityError, match="node 1"):
        directory.claim(2, "local")
    with pytest.raises(DirectoryIdentityError, match="local"):
        directory.claim(1, "other")


def test_replicas_are_found_with_their_topic_ids(directory):
    make_replica(directory, "orders-1", "b", 0)
    make_replica(directory, "orders", "a", 12)
    (directory.path / "notes.txt").write_text("not ours")
    found = [(r.topic, r.topic_id, r.partition) for r in directory.replicas()]
    assert found == [("orders-1", "b", 0), ("orders", "a", 12)]


def test_a_directory_that_was_being_made_is_removed(directory):
    path = directory.replica_path("orders", 0)
    path.mkdir()
    (path / "partition.json.tmp").write_text("{")
    assert directory.replicas() == ()
    assert not path.exists()


def test_segments_that_do_not_say_whose_they_are_stop_the_broker(directory):
    path = make_replica(directory, "orders", "a", 0)
    (path / "00000000000000000000.sqlite").touch()
    (path / "partition.json").unlink()
    with pytest.raises(StorageError, match="has segments but no"):
        directory.replicas()


def test_a_renamed_replica_stops_the_broker(directory):
    make_replica(directory, "orders", "a", 0).rename(directory.path / "orders-1")
    with pytest.raises(StorageError, match="holds orders-0"):
        directory.replicas()


def test_a_namesake_moves_aside_under_its_own_id(directory):
    make_replica(directory, "orders", "old", 0)
    target = directory.retire(directory.replicas()[0])
    assert target == directory.path / "deleted" / "old-0"
    assert directory.replicas() == ()
    make_replica(directory, "orders", "new", 0)
    assert [replica.topic_id for replica in directory.replicas()] == ["new"]
    directory.remove_retired(target)
    assert list((directory.path / "deleted").iterdir()) == []


def test_a_removal_leaves_what_another_one_is_at(directory):
    make_replica(directory, "orders", "old", 0)
    make_replica(directory, "orders", "old", 1)
    first, second = [directory.retire(replica) for replica in directory.replicas()]
    directory.remove_retired(first)
    assert list((directory.path / "deleted").iterdir()) == [second]


def test_what_a_crash_left_aside_is_removed_as_a_whole(directory):
    make_replica(directory, "orders", "old", 0)
    make_replica(directory, "orders", "old", 1)
    for replica in directory.replicas():
        directory.retire(replica)
    directory.remove_all_retired()
    assert list((directory.path / "deleted").iterdir()) == []


async def test_a_log_refuses_the_files_of_a_namesake(harness):
    prepare_replica_directory(harness.directory, "orders", "another-id", 3)
    with pytest.raises(StorageError, match="another-id"):
        await harness.open()


async def test_a_log_refuses_a_segment_of_a_namesake(harness):
    log = await harness.open()
    await append_durably(log)
    await log.close()
    other = harness.root / "other"
    prepare_replica_directory(other, "orders", "another-id", 3)
    for path in harness.directory.glob("*.sqlite"):
        path.rename(other / path.name)
    (harness.directory / "partition.json").rename(other / "partition.json")
    metadata = other / "partition.json"
    metadata.write_text(metadata.read_text().replace("orders", "orders2"))
    with pytest.raises(StorageError, match="belongs to"):
        await harness.open(other)


def test_high_watermarks_are_checkpointed_for_the_whole_broker(directory):
    assert directory.read_high_watermarks() == {}
    marks = {high_watermark_key("a", 0): 7, high_watermark_key("b", 1): 0}
    directory.write_high_watermarks(marks)
    directory.write_high_watermarks(marks | {"a-0": 9})
    assert directory.read_high_watermarks() == marks | {"a-0": 9}
    assert not list(directory.path.glob("*.tmp"))


def test_a_damaged_checkpoint_is_told(directory):
    (directory.path / "high-watermarks.json").write_text('{"a-0": "x"}')
    with pytest.raises(StorageError, match="high-watermarks"):
        directory.read_high_watermarks()


def test_a_directory_has_an_id_of_its_own_and_keeps_it(tmp_path):
    ids = []
    for name in ("a", "a", "b"):
        with LogDirectory(tmp_path / name) as directory:
            directory.claim(1, "local")
            ids.append(directory.directory_id)
    assert ids[0] == ids[1] != ids[2]
    assert all(ids)


def test_a_directory_from_before_there_were_ids_gets_one(tmp_path):
    former = '{"node_id":1,"cluster_id":"local","version":1}'
    (tmp_path / "meta.json").write_text(former)
    with LogDirectory(tmp_path) as directory:
        directory.claim(1, "local")
        assert directory.directory_id
        # The version before refuses one with more in it.
        assert (tmp_path / "meta.json").read_text() == former
        renewed = directory.renew_id()
    with LogDirectory(tmp_path) as directory:
        directory.claim(1, "local")
        assert directory.directory_id == renewed
