"""Who votes, as the log has it: dissertation §4.1; a voter is a node with a directory (KIP-853)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_cluster.raft import (
    Compaction,
    Configuration,
    Entry,
    EntryKind,
    RaftStateCorruptError,
    Snapshot,
    Voter,
    decode_configuration,
    encode_configuration,
)
from ottla_cluster.raft.configuration import bootstrap_configuration, changed_voters
from ottla_cluster.raft.log import RaftLog
from ottla_cluster.raft.quorum import quorum_size

BOOTSTRAP = bootstrap_configuration((1, 2, 3))


def of(*node_ids):
    return bootstrap_configuration(node_ids)


def entry(index, configuration=None, term=1):
    if configuration is None:
        return Entry(index, term, b"x")
    return Entry(index, term, encode_configuration(configuration), EntryKind.CONFIGURATION)


def log_of(*entries, commit_index=0, **options):
    return RaftLog(entries, commit_index=commit_index, bootstrap=BOOTSTRAP, **options)


def test_a_configuration_counts_from_its_append():
    log = log_of()
    assert (log.configuration, log.configuration_index) == (BOOTSTRAP, 0)
    log.append([entry(1, of(1, 2))])
    assert (log.configuration, log.configuration_index) == (of(1, 2), 1)


def test_a_configuration_goes_with_the_entries_that_are_cut_off():
    log = log_of(entry(1), entry(2, of(1, 2)), entry(3, of(1)))
    log.merge([entry(3, term=2)])
    assert log.configuration == of(1, 2)
    log.merge([entry(2, term=3)])
    assert (log.configuration, log.configuration_index) == (BOOTSTRAP, 0)


def test_a_snapshot_carries_the_configuration_of_its_index():
    log = log_of(entry(1), entry(2, of(1, 2)), entry(3, of(1)), commit_index=3)
    log.take_committed()
    assert log.compact(2, b"state", retained_entries=2, retained_bytes=99)
    assert log.snapshot == Snapshot(2, 1, b"state", of(1, 2))
    # Entries that it covers are still held, and say nothing twice.
    again = log_of(entry(1), entry(2, of(1, 2)), entry(3), commit_index=2,
                   compaction=Compaction(log.snapshot, 0, 0))  # fmt: skip
    assert (again.configuration, again.configuration_index) == (of(1, 2), 2)


def test_an_installed_snapshot_replaces_what_the_log_said():
    log = log_of(entry(1), entry(2, of(1)))
    log.install(Snapshot(5, 3, b"state", of(1, 2, 3, 4)))
    assert (log.configuration, log.configuration_index) == (of(1, 2, 3, 4), 5)
    older = log_of(entry(1), entry(2, of(1)))
    older.install(Snapshot(5, 3, b"state"))
    assert older.configuration == BOOTSTRAP


def test_an_entry_that_names_nobody_is_corrupt():
    with pytest.raises(RaftStateCorruptError, match="names no voter"):
        log_of(entry(1, Configuration()))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x93",
        encode_configuration(Configuration((Voter(1),), (Voter(1),))),
        encode_configuration(Configuration(tuple(map(Voter, range(1, 9))))),
    ],
)
def test_what_is_no_configuration_is_refused(payload):
    with pytest.raises(ValueError, match="configuration"):
        decode_configuration(payload)


def test_a_voter_is_a_node_with_a_directory():
    known = Configuration((Voter(1, "a"),))
    assert known.is_voter(1, "a")
    assert not known.is_voter(1, "b")
    assert not known.is_voter(1, "")
    assert of(1).is_voter(1, "b")


def test_another_directory_is_two_changes_and_a_known_one_is_none():
    assert changed_voters(of(1, 2), of(1, 2).with_directories({2: "b"})) == 0
    named = of(1, 2).with_directories({1: "a", 2: "b"})
    assert changed_voters(named, named.with_voter(Voter(2, "c"))) == 2
    assert changed_voters(named, named.with_learner(Voter(2, "c"))) == 1


voters = st.builds(Voter, st.integers(1, 5), st.sampled_from(["", "a", "b"]))
configurations = st.lists(voters, min_size=1, max_size=5, unique_by=lambda v: v.node_id).map(
    lambda found: Configuration(tuple(sorted(found, key=lambda v: v.node_id)))
)


@given(configurations, configurations)
def test_majorities_of_two_configurations_one_change_apart_share_a_voter(before, after):
    """The reason for one change at a time: dissertation §4.1."""
    if changed_voters(before, after) > 1:
        return
    assert len({*before.voter_ids, *after.voter_ids}) < (
        quorum_size(len(before.voters)) + quorum_size(len(after.voters))
    )


@given(configurations)
def test_an_encoded_configuration_comes_back(configuration):
    assert decode_configuration(encode_configuration(configuration)) == configuration
