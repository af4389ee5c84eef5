"""Restores: what the cluster is asked for, in which order, and what is refused before that."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from ottla_ops.backup import restoration
from ottla_ops.backup.manifest import (
    DamagedBackupError,
    GroupBackup,
    GroupOffset,
    NotInBackupError,
    chosen_topics,
)
from ottla_ops.backup.pace import Pace
from ottla_ops.backup.restoration import Restoration, RestoreOptions, padding
from ottla_protocol.errors import LeaderNotAvailableError, TopicAlreadyExistsError
from ottla_protocol.models import TopicDescription
from ottla_protocol.models_groups import OffsetToCommit
from ottla_protocol.record_batch import validate_batch
from tests.unit.ops.backup_source import FakeSource, batch_at, create
from tests.unit.ops.test_backup import logs

GROUP = GroupBackup("g", [GroupOffset("flights", 0, 1, 3, "note", 1_700_000_000_000)])


class FakeTarget:
    """A cluster that takes what a broker takes; `fail_at` appends are refused once each."""

    def __init__(self, *, fail_at=()):
        self.topics, self.logs, self.calls = {}, {}, []
        self.fail_at = set(fail_at)
        self.restored, self.kept_back = {}, set()
        self.appends = 0

    def topic(self, name):
        self.calls.append(("topic", name))
        restore_id = self.topics.get(name, False)
        return None if restore_id is False else TopicDescription(name, "id", [], {}, [], restore_id)

    def begin(self, name, request):
        self.calls.append(("begin", name))
        self.topics[name] = request.restore_id
        self.request = request
        for number, first in enumerate(request.first_offsets):
            self.logs.setdefault((name, number), (first, []))

    def append(self, topic, partition, restore_id, position, batches):
        assert self.topics[topic] == restore_id
        self.appends += 1
        if self.appends in self.fail_at:
            raise LeaderNotAvailableError("nobody leads")
        end, log = self.logs[topic, partition]
        assert position <= end, "a hole"
        for batch in batches:
            header = validate_batch(batch, on_append=False)
            if header.next_offset > end:
                # An empty log begins with the whole batch that its start is in.
                assert header.base_offset >= end or not log
                log.append(bytes(batch))
                end = header.next_offset
        self.logs[topic, partition] = end, log
        return end

    def commit(self, group, offsets):
        self.calls.append(("commit", group, *offsets))

    def finish(self, name, restore_id):
        self.calls.append(("finish", name))
        assert self.topics[name] == restore_id
        if name in self.kept_back:
            raise LeaderNotAvailableError("nobody decides")
        self.topics[name], self.restored[name] = None, restore_id

    def is_restored(self, name, restore_id):
        return self.restored.get(name) == restore_id


def restore(directory, manifest, target, *, new_names=None, configs=None, with_groups=True):
    options = RestoreOptions(new_names or {}, configs or {}, None, with_groups)
    counted = []
    made = Restoration(
        directory, manifest, target, options, pace=Pace(None), on_records=counted.append
    )
    return made.restore(chosen_topics(manifest, [])), sum(counted)


@settings(max_examples=15)
@given(
    st.lists(logs(), min_size=1, max_size=2),
    st.integers(100, 600),
    st.integers(0, 3),
    st.sets(st.integers(1, 12), max_size=3),
    st.integers(1, 300),
)
def test_everything_comes_back_however_often_it_breaks_off(
    parts, chunk_bytes, skipped, fail_at, append_bytes
):
    source = FakeSource([log for _, log in parts], starts=[start for start, _ in parts])
    source.ends = [end + skipped for end in source.ends]
    target = FakeTarget(fail_at=fail_at)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(restoration, "APPEND_BYTES", append_bytes)
        manifest = create(source, Path(name), chunk_bytes=chunk_bytes)
        while True:
            try:
                _, counted = restore(Path(name), manifest, target)
                break
            except LeaderNotAvailableError:
                assert target.topics == {"flights": manifest.id}
        assert counted == manifest.records
    for number, (start, log) in enumerate(parts):
        end, found = target.logs["flights", number]
        assert end == source.ends[number]
        assert found[: len(log)] == [bytes(batch) for batch in log]
        assert [
            validate_batch(batch, on_append=False).record_count for batch in found[len(log) :]
        ] in (
            [],
            [0],
        )
        assert target.request.first_offsets[number] == start
    assert target.topics == {"flights": None}


def test_groups_come_after_all_records_and_readers_after_the_groups(tmp_path):
    manifest = create(FakeSource([[batch_at(0)]], groups=[GROUP]), tmp_path)
    target = FakeTarget()
    groups, _ = restore(
        tmp_path, manifest, target, new_names={"flights": "again"}, configs={"retention.ms": "-1"}
    )
    assert groups == ["g"]
    assert target.calls == [
        ("topic", "again"),
        ("begin", "again"),
        ("commit", "g", OffsetToCommit("again", 0, 1, None, "note")),
        ("finish", "again"),
    ]
    assert target.request.configs == {"retention.ms": "-1"}
    assert target.request.replication_factor == 2
    other = FakeTarget()
    assert restore(tmp_path, manifest, other, with_groups=False)[0] == []
    assert "commit" not in [call[0] for call in other.calls]


def test_a_restore_that_broke_off_between_two_topics_goes_on_with_the_second(tmp_path):
    manifest = create(FakeSource([[batch_at(0)]], groups=[GROUP]), tmp_path)
    flights = manifest.topics[0]
    both = structs.replace(manifest, topics=[flights, structs.replace(flights, name="gates")])
    target = FakeTarget()
    target.kept_back = {"gates"}
    with pytest.raises(LeaderNotAvailableError):
        restore(tmp_path, both, target)
    assert target.topics == {"flights": None, "gates": manifest.id}
    target.kept_back = set()
    target.calls.clear()
    groups, counted = restore(tmp_path, both, target)
    assert target.topics == {"flights": None, "gates": None}
    # Whoever reads flights by now has committed since; what the backup knew is not set again.
    assert (groups, counted) == ([], both.records)
    assert [call[0] for call in target.calls] == ["topic", "topic", "begin", "finish"]
    with pytest.raises(TopicAlreadyExistsError):
        restore(tmp_path, both, target)


def test_a_topic_of_another_origin_stops_a_restore_that_goes_on(tmp_path):
    manifest = create(FakeSource([[batch_at(0)]]), tmp_path)
    flights = manifest.topics[0]
    both = structs.replace(manifest, topics=[flights, structs.replace(flights, name="gates")])
    target = FakeTarget()
    target.topics = {"flights": None, "gates": manifest.id}
    with pytest.raises(TopicAlreadyExistsError):
        restore(tmp_path, both, target)
    assert target.calls == [("topic", "flights"), ("topic", "gates")]


@pytest.mark.parametrize("restore_id", [None, "other"])
def test_a_topic_that_exists_is_never_touched(tmp_path, restore_id):
    manifest = create(FakeSource([[batch_at(0)]]), tmp_path)
    target = FakeTarget()
    target.topics["flights"] = restore_id
    with pytest.raises(TopicAlreadyExistsError):
        restore(tmp_path, manifest, target)
    assert target.calls == [("topic", "flights")]


def test_damage_is_found_before_anything_is_created(tmp_path):
    source = FakeSource([[batch_at(0), batch_at(1)]])
    source.batches_max = 1
    manifest = create(source, tmp_path, chunk_bytes=1)
    last = max(tmp_path.rglob("*.batches"))
    last.write_bytes(last.read_bytes()[:-1])
    target = FakeTarget()
    with pytest.raises(DamagedBackupError, match=last.name):
        restore(tmp_path, manifest, target)
    assert target.calls == [("topic", "flights")]
    with pytest.raises(NotInBackupError):
        chosen_topics(manifest, ["other"])


def test_padding_covers_any_number_of_offsets_in_pieces():
    header = validate_batch(padding(5, 9, 1_000), on_append=False)
    assert (header.base_offset, header.next_offset, header.record_count) == (5, 9, 0)
    header = validate_batch(padding(0, 2**40, 1_000), on_append=False)
    assert header.next_offset == 2**31


def test_the_command_refuses_names_that_make_no_sense(cli, cluster, tmp_path):
    create(FakeSource([[batch_at(0)]]), tmp_path)
    for arguments in (["--rename", "x"], ["--rename", "other=new"], ["--config", "x"]):
        assert cli("restore", tmp_path, *arguments, to=cluster)[0] == 2
    assert cli("restore", tmp_path, "other", to=cluster)[0] == 3
    assert cli("restore", tmp_path / "none", to=cluster)[0] == 3
