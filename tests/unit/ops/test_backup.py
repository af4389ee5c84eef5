"""Backups: what is in them, and how damage and holes in them are found."""

import itertools
import json
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ottla_ops.backup.chunk_files import read_chunk
from ottla_ops.backup.manifest import (
    MANIFEST,
    BackupExistsError,
    Chunk,
    DamagedBackupError,
    GroupBackup,
    GroupOffset,
    PartitionBackup,
    UnfinishedBackupError,
    UnsupportedBackupError,
    decode_manifest,
    encode_manifest,
    hole_in,
)
from ottla_ops.backup.pace import Pace
from ottla_ops.backup.verification import damage_in, read_manifest
from ottla_protocol.errors import LogTruncatedError, RequestTimedOutError, UnknownTopicIdError
from ottla_protocol.record_batch import read_header, validate_batch
from tests.unit.ops.backup_source import FakeSource, batch_at, create

files_are_synced = settings(max_examples=20)


@st.composite
def logs(draw):
    """Batches with gaps between them, from any start, also amid the first of them."""
    position = start = draw(st.integers(0, 50))
    batches = []
    for gap, records in draw(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=8)):
        batches.append(batch_at(position + gap, records, b"x" * draw(st.integers(0, 60))))
        position += gap + records
    if batches and draw(st.booleans()):
        first = read_header(batches[0])
        start = draw(st.integers(start, first.last_offset))
    return start, batches


def stored(directory, partition):
    return [bytes(batch) for chunk in partition.chunks for batch, _ in read_chunk(directory, chunk)]


def nothing(_):
    pass


@files_are_synced
@given(st.lists(logs(), min_size=1, max_size=2), st.integers(100, 600), st.integers(1, 4))
def test_a_backup_has_every_batch_as_it_is_stored(parts, chunk_bytes, batches_max):
    source = FakeSource([log for _, log in parts], starts=[start for start, _ in parts])
    source.batches_max = batches_max
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "backup"
        made = create(source, directory, chunk_bytes=chunk_bytes)
        manifest = read_manifest(directory)
        assert manifest == made
        assert damage_in(directory, manifest.topics, nothing) == []
        [topic] = manifest.topics
        assert (topic.name, topic.configs) == ("flights", {"retention.ms": 5})
        for partition, (start, log), end in zip(topic.partitions, parts, source.ends, strict=True):
            assert (partition.log_start_offset, partition.end_offset) == (start, end)
            assert stored(directory, partition) == [bytes(batch) for batch in log]


@files_are_synced
@given(logs().filter(lambda part: part[1]), st.data())
def test_any_change_of_any_file_is_found_and_the_file_named(part, data):
    start, log = part
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        manifest = create(FakeSource([log], starts=[start]), directory)
        [partition] = manifest.topics[0].partitions
        chunk = data.draw(st.sampled_from(partition.chunks))
        path = directory / chunk.file
        content = bytearray(path.read_bytes())
        match data.draw(st.sampled_from(["flip", "cut", "longer", "gone"])):
            case "flip":
                content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(
                    st.integers(0, 7)
                )
                path.write_bytes(content)
            case "cut":
                path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
            case "longer":
                path.write_bytes(content + b"\0")
            case "gone":
                path.unlink()
        [error] = damage_in(directory, manifest.topics, nothing)
        assert str(path) in error.detail


@given(
    st.integers(0, 9),
    st.lists(st.integers(1, 5), min_size=1, max_size=6),
    st.data(),
)
def test_a_range_with_a_chunk_less_or_elsewhere_has_a_hole(start, lengths, data):
    chunks, position = [], start
    for length in lengths:
        chunks.append(Chunk("", position, position + length, 1, 1, 1, "0" * 64))
        position += length
    whole = PartitionBackup(0, start, position, chunks)
    assert hole_in(whole) is None
    gone = data.draw(st.integers(0, len(chunks) - 1))
    rest = chunks[:gone] + chunks[gone + 1 :]
    found = hole_in(msgspec.structs.replace(whole, chunks=rest))
    assert found == (chunks[gone].first_offset, chunks[gone].next_offset)
    twice = [*chunks[: gone + 1], *chunks[gone:]]
    assert hole_in(msgspec.structs.replace(whole, chunks=twice)) is not None


@pytest.mark.parametrize("chunk_bytes", [1, 10_000])
def test_records_of_two_histories_never_come_into_one_backup(tmp_path, chunk_bytes):
    source = FakeSource([[batch_at(0, 3), batch_at(3, 2), batch_at(5, 4)]])
    source.batches_max = 1
    fetches = itertools.count()

    def another_history():
        if next(fetches) == 2:
            # Offset 3 and all behind it is gone, and other records are there.
            source.logs = [[batch_at(0, 3), *(batch_at(n, leader_epoch=4) for n in range(3, 9))]]
            source.epochs = {4: 3}

    source.before_fetch = another_history
    with pytest.raises(LogTruncatedError):
        create(source, tmp_path, chunk_bytes=chunk_bytes)
    with pytest.raises(UnfinishedBackupError):
        read_manifest(tmp_path)
    again = tmp_path / "again"
    assert create(source, again, chunk_bytes=chunk_bytes).records == 9


def test_what_is_committed_after_the_backup_began_is_no_part_of_it(tmp_path):
    source = FakeSource([[batch_at(0, 3), batch_at(3, 2), batch_at(5, 4)]], ends=[5])

    def writing_goes_on():
        source.ends = [9]

    source.before_fetch = writing_goes_on
    source.batches_max = 1
    manifest = create(source, tmp_path, chunk_bytes=1)
    [partition] = manifest.topics[0].partitions
    assert partition.end_offset == 5
    assert partition.records == 5
    assert [chunk.next_offset for chunk in partition.chunks] == [3, 5]


def test_where_retention_was_faster_the_partition_begins_where_it_does_now(tmp_path):
    log = [batch_at(offset) for offset in range(6)]
    source = FakeSource([log])
    fetches = []

    def retention_comes():
        fetches.append(1)
        if len(fetches) == 3:
            source.starts = [4]

    source.before_fetch = retention_comes
    source.batches_max = 1
    manifest = create(source, tmp_path, chunk_bytes=1)
    [partition] = manifest.topics[0].partitions
    assert (partition.log_start_offset, partition.end_offset) == (4, 6)
    assert len(list(tmp_path.rglob("*.batches"))) == 2
    assert damage_in(tmp_path, manifest.topics, nothing) == []


def test_offsets_that_the_leader_skipped_at_the_end_are_a_part_of_the_range(tmp_path):
    source = FakeSource([[batch_at(0, 2)]], ends=[7])
    manifest = create(source, tmp_path)
    [partition] = manifest.topics[0].partitions
    assert partition.end_offset == 7
    assert partition.records == 2
    assert hole_in(partition) is None


def test_of_transactions_it_has_what_is_committed_at_its_offsets(tmp_path):
    producer = {"producer_id": 7, "producer_epoch": 3, "is_transactional": True}
    log = [
        batch_at(0),
        batch_at(1, 2, **producer),
        batch_at(3, 2, b"aborted", **producer),
        batch_at(5, is_control=True, **producer),
        batch_at(6, 1, b"open", **producer),
    ]
    group = GroupBackup("readers", [GroupOffset("flights", 0, 7, 0, "", 1)])
    source = FakeSource([log], ends=[6], groups=[group])
    source.hidden, source.latest = {3, 5}, 7
    notes = []
    manifest = create(source, tmp_path / "b", on_note=notes.append)
    partition = manifest.topics[0].partitions[0]
    assert (partition.end_offset, partition.records) == (6, 3)
    first, second = stored(tmp_path / "b", partition)
    assert first == log[0]
    header = validate_batch(second, on_append=False)
    assert (header.base_offset, header.record_count, header.producer_id) == (1, 2, -1)
    assert not header.is_transactional
    # Nobody is told of records that are not there, and whoever makes the backup is told so.
    assert manifest.groups[0].offsets[0].offset == 6
    assert notes == [
        "flights-0 ends at offset 6, before a transaction that is open: 1 offset behind it "
        "not in the backup"
    ]
    assert damage_in(tmp_path / "b", manifest.topics, nothing) == []


def test_a_topic_that_was_created_again_meanwhile_is_not_mixed_into_it(tmp_path):
    source = FakeSource([[batch_at(0)]])
    source.before_fetch = lambda: setattr(source, "topic_id", "b" * 32)
    with pytest.raises(UnknownTopicIdError):
        create(source, tmp_path)
    assert not list(tmp_path.rglob("*.batches"))
    with pytest.raises(UnfinishedBackupError):
        read_manifest(tmp_path)


def test_a_directory_with_anything_in_it_is_refused(tmp_path):
    source = FakeSource([[batch_at(0)]])
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BackupExistsError, match="remove them"):
        create(source, tmp_path)
    create(source, tmp_path / "backup")
    with pytest.raises(BackupExistsError, match="there is a backup already"):
        create(source, tmp_path / "backup")


def test_groups_are_kept_with_metadata_and_epoch_or_left_out(tmp_path):
    group = GroupBackup("g", [GroupOffset("flights", 0, 1, 3, "note", 1_700_000_000_000)])
    source = FakeSource([[batch_at(0)]], groups=[group])
    assert create(source, tmp_path / "with").groups == [group]
    assert read_manifest(tmp_path / "with").groups == [group]
    assert create(source, tmp_path / "without", with_groups=False).groups == []


def edited(directory, **members):
    document = json.loads((directory / MANIFEST).read_text())
    return json.dumps(document | members).encode()


def test_a_manifest_that_leads_elsewhere_or_contradicts_itself_is_refused(tmp_path):
    manifest = create(FakeSource([[batch_at(0), batch_at(1)]]), tmp_path, chunk_bytes=1)
    assert decode_manifest(encode_manifest(manifest)) == manifest
    with pytest.raises(UnsupportedBackupError):
        decode_manifest(edited(tmp_path, version=2))
    for members in (
        {"format": "other"},
        {"topics": [msgspec.to_builtins(manifest.topics[0])] * 2},
        {
            "groups": [
                {
                    "group": "g",
                    "offsets": [
                        {
                            "topic": "no",
                            "partition": 0,
                            "offset": 0,
                            "leader_epoch": None,
                            "metadata": "",
                            "commit_timestamp": 0,
                        }
                    ],
                }
            ]
        },
        {"records": None, "id": 5},
    ):
        with pytest.raises(DamagedBackupError):
            decode_manifest(edited(tmp_path, **members))
    for field, value in (
        ("file", "../../etc/passwd"),
        ("first_offset", 1),
        ("next_offset", 0),
        ("sha256", "short"),
        ("size_bytes", -1),
    ):
        topic = msgspec.to_builtins(manifest.topics[0])
        topic["partitions"][0]["chunks"][0][field] = value
        with pytest.raises(DamagedBackupError):
            decode_manifest(edited(tmp_path, topics=[topic]))
    topic = msgspec.to_builtins(manifest.topics[0]) | {"name": ".."}
    with pytest.raises(DamagedBackupError, match="must not be"):
        decode_manifest(edited(tmp_path, topics=[topic]))
    with pytest.raises(DamagedBackupError):
        decode_manifest(b"\xff{")


def test_a_partition_that_stands_still_fails_the_backup(tmp_path):
    source = FakeSource([[]], ends=[3])
    fetch = source.fetch
    source.fetch = lambda *named: msgspec.structs.replace(fetch(*named), high_watermark=0)
    times = iter(range(100))
    from ottla_ops.backup.creation import BackupCreation

    creation = BackupCreation(
        source,
        tmp_path,
        pace=Pace(None),
        timeout_s=5,
        wall_clock_ms=lambda: 0,
        monotonic_s=lambda: next(times),
    )
    with pytest.raises(RequestTimedOutError, match="flights-0 is stuck at offset 0 of 3"):
        creation.create([], with_groups=False)


def test_a_pace_is_kept_on_average_and_saves_nothing_up():
    now, slept = [100.0], []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    pace = Pace(1_000, clock_s=lambda: now[0], sleep=sleep)
    assert pace.bounded(8_000) == 1_000
    pace.moved(500)
    pace.moved(1_500)
    now[0] += 60
    pace.moved(250)
    pace.moved(0)
    assert slept == pytest.approx([0.5, 1.5, 0.25])
    assert Pace(None).bounded(8_000) == 8_000


def test_the_command_verifies_and_names_the_damaged_file(cli, tmp_path):
    directory = tmp_path / "backup"
    source = FakeSource([[batch_at(0), batch_at(1)]])
    source.batches_max = 1
    create(source, directory, chunk_bytes=1)
    code, out, err = cli("backup", "verify", directory, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["records"] == 2
    assert found["topics"][0]["partitions"][0]["end_offset"] == 2
    [first, second] = sorted(directory.rglob("*.batches"))
    for path in (first, second):
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    code, out, err = cli("backup", "verify", directory)
    assert (code, out) == (1, "")
    assert str(first) in err
    assert str(second) in err
    (directory / MANIFEST).unlink()
    code, out, err = cli("backup", "verify", directory)
    assert code == 1
    assert "broken off" in err
    assert cli("backup", "verify", tmp_path / "none")[0] == 3


def test_the_command_refuses_what_cannot_be(cli, cluster, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    code, _, err = cli("backup", tmp_path, to=cluster)
    assert (code, "there are files" in err) == (4, True)
    assert cli("backup", tmp_path / "new", "--throttle", "fast", to=cluster)[0] == 2
    assert cli("backup", tmp_path / "new", "__consumer_offsets", to=cluster)[0] == 2
    assert cli("backup")[0] == 2
