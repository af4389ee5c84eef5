"""The leader's view of a follower: what it sends next after each answer."""

from ottla_cluster.raft.progress import Progress, ProgressState


def progress(next_index=11, window=2):
    return Progress(2, next_index=next_index, now_ms=0, max_inflight_appends=window)


def replicating(match_index=10, window=2):
    follower = progress(match_index + 1, window)
    follower.accepted(match_index)
    assert follower.state is ProgressState.REPLICATE
    return follower


def test_a_probe_is_one_append_at_a_time():
    follower = progress()
    assert follower.may_send_entries
    follower.sent(12)
    assert (follower.may_send_entries, follower.next_index) == (False, 11)


def test_an_accepted_probe_opens_the_stream():
    follower = progress()
    follower.sent(12)
    follower.accepted(12)
    assert follower.state is ProgressState.REPLICATE
    assert (follower.match_index, follower.next_index) == (12, 13)


def test_agreement_before_the_probed_index_keeps_probing():
    """Commit news at match_index says nothing about the entries in between."""
    follower = progress()
    follower.accepted(0)
    assert follower.state is ProgressState.PROBE
    assert follower.next_index == 11


def test_the_stream_stops_at_its_window_and_goes_on_with_each_answer():
    follower = replicating()
    follower.sent(11)
    follower.sent(14)
    assert (follower.may_send_entries, follower.next_index) == (False, 15)
    follower.accepted(11)
    assert follower.may_send_entries


def test_one_answer_covers_all_appends_before_it():
    follower = replicating()
    follower.sent(11)
    follower.sent(14)
    follower.accepted(14)
    follower.sent(15)
    assert follower.may_send_entries


def test_a_refused_stream_goes_back_to_what_is_known():
    follower = replicating()
    follower.sent(11)
    follower.sent(14)
    assert follower.refused(14, next_guess=12)
    assert follower.state is ProgressState.PROBE
    assert (follower.next_index, follower.may_send_entries) == (12, True)


def test_a_refusal_never_goes_below_the_match_nor_forward():
    follower = replicating()
    assert follower.refused(12, next_guess=3)
    assert follower.next_index == 11
    other = progress(next_index=8)
    assert other.refused(7, next_guess=9)
    assert other.next_index == 7


def test_a_delayed_refusal_is_no_news():
    follower = replicating()
    assert not follower.refused(10, next_guess=1)
    probing = progress()
    assert not probing.refused(4, next_guess=1)
    assert probing.next_index == 11


def test_answers_never_turn_time_or_rounds_back():
    follower = progress()
    follower.answered(7, now_ms=100)
    follower.answered(3, now_ms=200)
    assert (follower.answered_read_sequence, follower.last_contact_ms) == (7, 200)
