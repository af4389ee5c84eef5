"""ReadIndex rounds (dissertation §6.4)."""

from hypothesis import given
from hypothesis import strategies as st

from ottla_cluster.raft import ReadConfirmed
from ottla_cluster.raft.reads import ReadRounds


def test_a_round_confirms_its_reads_at_the_index_of_its_start():
    reads = ReadRounds(max_rounds_in_flight=2)
    reads.add(1)
    assert reads.start_round(commit_index=5)
    reads.add(2)
    assert reads.start_round(commit_index=8)
    assert reads.confirm(1) == [ReadConfirmed(1, 5)]
    assert reads.confirm(2) == [ReadConfirmed(2, 8)]


def test_without_reads_no_round_starts():
    reads = ReadRounds(max_rounds_in_flight=2)
    assert not reads.start_round(commit_index=5)
    assert reads.sequence == 0


def test_reads_beyond_the_rounds_in_flight_share_the_next_one():
    reads = ReadRounds(max_rounds_in_flight=1)
    reads.add(1)
    assert reads.start_round(1)
    for token in (2, 3, 4):
        reads.add(token)
        assert not reads.start_round(1)
    reads.confirm(1)
    assert reads.start_round(6)
    assert reads.confirm(2) == [ReadConfirmed(token, 6) for token in (2, 3, 4)]


@given(st.lists(st.sampled_from(["add", "start", "confirm", "fail"]), max_size=40))
def test_every_read_ends_exactly_once(actions):
    reads = ReadRounds(max_rounds_in_flight=2)
    token = 0
    ended = []
    for action in actions:
        if action == "add":
            token += 1
            reads.add(token)
        elif action == "start":
            reads.start_round(token)
        elif action == "confirm":
            ended += [read.token for read in reads.confirm(reads.sequence)]
        else:
            ended += reads.fail_all()
        assert reads.pending_count == token - len(ended)
        assert reads.has_pending == (reads.pending_count > 0)
    ended += reads.fail_all()
    assert ended == list(range(1, token + 1))
