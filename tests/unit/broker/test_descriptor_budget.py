"""The division of the file descriptors: everything fits, whatever the system allows."""

import re
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ottla_broker.descriptor_budget import (
    CLUSTER_CALLS_PER_PEER,
    DESCRIPTORS_MIN,
    RESERVED_DESCRIPTORS,
    TooFewDescriptorsError,
    divide_descriptors,
)
from ottla_broker.storage.handles import DESCRIPTORS_PER_SEGMENT, OPEN_SEGMENTS_MAX


def used(budget):
    return (
        RESERVED_DESCRIPTORS
        + budget.open_segments * DESCRIPTORS_PER_SEGMENT
        + budget.connections
        + budget.reserved_connections
        + 2 * budget.cluster_connections
        + budget.peer_connections
        + budget.forwarded_produces
        + budget.parked_calls
        + budget.streamed_reads
    )


@given(
    st.integers(DESCRIPTORS_MIN, 2_000_000),
    st.none() | st.integers(4, 100_000),
    st.none() | st.integers(16, 1_000_000),
    st.integers(0, 20),
)
@example(DESCRIPTORS_MIN, None, None, 2)
@example(sys.maxsize, None, None, 2)
def test_what_is_given_out_is_never_more_than_there_is(
    descriptors, open_segments, connections, peers
):
    try:
        budget = divide_descriptors(
            descriptors, peers=peers, open_segments=open_segments, connections=connections
        )
    except TooFewDescriptorsError:
        assert open_segments is not None or connections is not None or peers > 2
        return
    # Whatever else there is: each call that the cluster lives by has a place, at every peer.
    assert budget.cluster_connections_per_peer == CLUSTER_CALLS_PER_PEER + budget.isr_proposals
    assert budget.cluster_connections == peers * budget.cluster_connections_per_peer
    assert used(budget) <= descriptors
    assert open_segments in (None, budget.open_segments)
    assert connections in (None, budget.connections)
    assert (
        min(
            budget.open_segments,
            budget.connections,
            budget.reserved_connections,
            budget.isr_proposals,
            budget.peer_connections,
            budget.forwarded_produces,
            budget.parked_calls,
            budget.streamed_reads,
        )
        >= 2
    )


def test_the_usual_limit_leaves_room_for_all():
    budget = divide_descriptors(1_024, peers=2)
    assert budget.open_segments >= 100
    assert budget.connections >= 256


def test_threads_stay_few_where_descriptors_are_many():
    assert divide_descriptors(1 << 20).open_segments == OPEN_SEGMENTS_MAX


@pytest.mark.parametrize(
    ("descriptors", "asked", "told"),
    [
        (DESCRIPTORS_MIN - 1, {}, f"needs {DESCRIPTORS_MIN}"),
        (1_024, {"open_segments": 1_000}, "max_open_segments"),
        (1_024, {"connections": 1_000}, "max_connections"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_rule(descriptors, asked, told):
    with pytest.raises(TooFewDescriptorsError, match=told) as caught:
        divide_descriptors(descriptors, **asked)
    assert str(descriptors) in str(caught.value)


@pytest.mark.parametrize("connections", [None, 20, 100, 5_000])
@pytest.mark.parametrize("peers", [0, 1, 2, 8])
def test_the_number_that_is_told_is_the_least_that_suffices(peers, connections):
    asked = {"open_segments": 1_000, "connections": connections, "peers": peers}
    with pytest.raises(TooFewDescriptorsError) as caught:
        divide_descriptors(1_024, **asked)
    needed = int(re.search(r"need (\d+)", str(caught.value))[1])
    divide_descriptors(needed, **asked)
    with pytest.raises(TooFewDescriptorsError):
        # Half of an odd number is rounded in favour of what brokers say to one another.
        divide_descriptors(needed - (2 if connections is None else 1), **asked)
