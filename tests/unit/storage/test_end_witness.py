"""The witness of the logs' ends: what it tells after any crash, and what damage to it does."""

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_broker.storage import end_witness
from ottla_broker.storage.disk_full import DiskFullError
from ottla_broker.storage.end_witness import (
    COPY_BYTES,
    PAGE_BYTES,
    SLOTS_PER_PAGE,
    EndWitness,
    WitnessedEnd,
    read_boot_id,
)
from ottla_broker.storage.policy.tail_loss import find_tail_loss
from ottla_cluster.replication.leader_epochs import LeaderEpochs

KEY = ("a" * 32, 0)
EPOCHS = LeaderEpochs.of([(1, 0), (4, 50)])


def reopened(path):
    witness = EndWitness(path)
    ends = dict(witness.ends)
    witness.close()
    return ends


def test_only_what_was_flushed_is_told(tmp_path):
    path = tmp_path / "witness"
    witness = EndWitness(path)
    witness.record(KEY, WitnessedEnd(1, 10))
    assert witness.flush() == 1
    assert witness.flush() == 0
    witness.record(KEY, WitnessedEnd(1, 11))
    assert reopened(path) == {KEY: WitnessedEnd(1, 10)}
    witness.flush()
    assert reopened(path) == {KEY: WitnessedEnd(1, 11)}
    assert path.stat().st_size == 2 * PAGE_BYTES


def test_a_short_log_is_told_of_until_something_else_is(tmp_path):
    path = tmp_path / "witness"
    witness = EndWitness(path)
    for end in (WitnessedEnd(-1, 10, is_short=True), WitnessedEnd(2, 12)):
        witness.record(KEY, end)
        witness.flush()
        assert reopened(path) == {KEY: end}


def test_an_end_comes_with_the_start_of_the_system_that_it_was_written_in(tmp_path):
    path = tmp_path / "witness"
    witness = EndWitness(path, boot_id=read_boot_id())
    end = WitnessedEnd(2, 12, boot_id=bytes(range(16)))
    witness.record(KEY, end)
    witness.flush()
    assert reopened(path) == {KEY: end}


def test_the_boot_id_is_absent_where_the_system_has_none(tmp_path, monkeypatch):
    file = tmp_path / "boot_id"
    monkeypatch.setattr(end_witness, "BOOT_ID_FILE", file)
    assert read_boot_id() is None
    file.write_text("nonsense\n")
    assert read_boot_id() is None
    file.write_text("00010203-0405-0607-0809-0a0b0c0d0e0f\n")
    assert read_boot_id() == bytes(range(16))


def test_a_torn_write_leaves_the_end_before(tmp_path):
    path = tmp_path / "witness"
    witness = EndWitness(path)
    for end in (10, 11):
        witness.record(KEY, WitnessedEnd(1, end))
        witness.flush()
    content = bytearray(path.read_bytes())
    newest = content.index((11).to_bytes(8, "big")) // PAGE_BYTES * PAGE_BYTES
    content[newest : newest + PAGE_BYTES] = b"\xff" * PAGE_BYTES
    path.write_bytes(content)
    assert reopened(path) == {KEY: WitnessedEnd(1, 10)}
    path.write_bytes(b"\xff" * len(content))
    damaged = EndWitness(path)
    assert dict(damaged.ends) == {}
    assert damaged.damaged_slots == SLOTS_PER_PAGE


@given(position=st.integers(0, COPY_BYTES - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_never_makes_another_end(tmp_path_factory, position, bit):
    path = tmp_path_factory.mktemp("w") / "witness"
    witness = EndWitness(path)
    for end in (10, 11):
        witness.record(KEY, WitnessedEnd(1, end))
        witness.flush()
    witness.close()
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)
    assert reopened(path).get(KEY) in (WitnessedEnd(1, 10), WitnessedEnd(1, 11))


@given(
    st.lists(
        st.tuples(st.integers(0, 79), st.one_of(st.none(), st.integers(0, 1 << 40))),
        max_size=200,
    )
)
def test_slots_are_reused_and_never_mixed_up(tmp_path_factory, changes):
    path = tmp_path_factory.mktemp("w") / "witness"
    witness = EndWitness(path)
    expected = {}
    for number, end_offset in changes:
        key = ("t" * 32, number)
        if end_offset is None:
            witness.forget(key)
            expected.pop(key, None)
        else:
            expected[key] = WitnessedEnd(-1, end_offset)
            witness.record(key, expected[key])
        if number % 3:
            witness.flush()
    witness.flush()
    witness.close()
    assert reopened(path) == expected
    assert path.stat().st_size <= 3 * 2 * PAGE_BYTES


def loss(
    *,
    end=100,
    damage=None,
    witnessed=None,
    outlasts=None,
    is_short=False,
    high_watermark=0,
    syncs=True,
):
    return find_tail_loss(
        log_end_offset=end,
        leader_epochs=EPOCHS,
        damage=damage,
        witnessed=witnessed,
        outlasts_witness=syncs if outlasts is None else outlasts,
        is_short=is_short,
        high_watermark=high_watermark,
        syncs_commits=syncs,
    )


@pytest.mark.parametrize(
    "known",
    [
        {},
        {"witnessed": (4, 100), "high_watermark": 100},
        {"witnessed": (4, 60)},
        {"witnessed": (1, 50)},
        {"high_watermark": 3},
        {"witnessed": (4, 200), "high_watermark": 200, "syncs": False},
        {"witnessed": (3, 100), "syncs": False},
        # Written before the system lost its power, and its topic syncs since.
        {"witnessed": (4, 200), "outlasts": False},
    ],
)
def test_a_log_that_reaches_what_is_known_of_it_lost_nothing(known):
    assert loss(**known) is None


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"witnessed": (4, 101)}, 101),
        ({"high_watermark": 101}, 101),
        ({"witnessed": (4, 120), "high_watermark": 110}, 120),
        ({"witnessed": (4, 105), "high_watermark": 110}, 110),
        ({"damage": "a batch"}, 100),
        ({"damage": "a batch", "syncs": False}, 100),
        # What is lost is known by other means: consumers may have read up to here.
        ({"damage": "a batch", "syncs": False, "high_watermark": 110}, 110),
        ({"damage": "a batch", "syncs": False, "witnessed": (4, 120)}, 120),
        ({"damage": "a batch", "witnessed": (4, 120), "high_watermark": 110}, 120),
        ({"is_short": True, "witnessed": (-1, 90), "high_watermark": 110}, 110),
        # The same start of the system: nothing can be missing.
        ({"witnessed": (4, 130), "syncs": False, "outlasts": True}, 130),
        ({"witnessed": (3, 100), "syncs": False, "outlasts": True}, 100),
        # Started again before it was refilled; what the witness saw last may be below its end.
        ({"witnessed": (-1, 90), "is_short": True}, 100),
        ({"witnessed": (-1, 130), "is_short": True, "syncs": False}, 130),
        # As long as it should be, and of another history.
        ({"witnessed": (3, 100)}, 100),
        ({"witnessed": (4, 50)}, 100),
    ],
)
def test_a_log_that_does_not_has_lost_its_end(known, expected):
    found = loss(**known)
    assert (found.log_end_offset, found.expected_end_offset) == (100, expected)
    assert found.reason


def test_an_empty_log_without_history_lost_nothing():
    assert (
        find_tail_loss(
            log_end_offset=0,
            leader_epochs=LeaderEpochs(),
            damage=None,
            witnessed=(-1, 0),
            outlasts_witness=True,
            is_short=False,
            high_watermark=0,
            syncs_commits=True,
        )
        is None
    )


def test_what_finds_no_room_is_written_the_next_time(tmp_path, monkeypatch):
    witness = EndWitness(tmp_path / "witness")
    witness.record(("a" * 32, 0), WitnessedEnd(1, 10))

    def no_room(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", no_room)
        with pytest.raises(DiskFullError):
            witness.flush()
    witness.record(("b" * 32, 0), WitnessedEnd(1, 20))
    assert witness.flush() == 2
    witness.close()
    assert {end.end_offset for end in reopened(tmp_path / "witness").values()} == {10, 20}
