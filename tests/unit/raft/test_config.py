"""A wrong setting is refused with its name."""

import pytest

from ottla_cluster.raft import RaftConfig, Voter


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"voters": ()}, "voters"),
        ({"voters": (1, 1)}, "voters"),
        ({"voters": (0, 1)}, "voters"),
        ({"voters": tuple(range(1, 10))}, "voters"),
        ({"node_id": 0}, "node_id"),
        ({"max_observers": 0}, "max_observers"),
        ({"observer_timeout_ms": 100}, "observer_timeout_ms"),
        ({"heartbeat_interval_ms": 0}, "heartbeat_interval_ms"),
        ({"heartbeat_interval_ms": 500}, "heartbeat_interval_ms"),
        ({"election_timeout_max_ms": 500}, "election_timeout_max_ms"),
        ({"max_append_bytes": 0}, "max_append_bytes"),
        ({"max_inflight_appends": 0}, "max_inflight_appends"),
    ],
)
def test_a_wrong_setting_is_refused(fields, named):
    with pytest.raises(ValueError, match=named):
        RaftConfig(**({"node_id": 1, "voters": (1, 2, 3)} | fields))


def test_who_is_no_voter_observes():
    assert RaftConfig(9, (3, 2, 1)).is_observer
    assert not RaftConfig(1, (1,)).is_observer


def test_the_bootstrap_names_the_voters_in_order():
    """And no URLs: all voters may move at once, and the log would keep where they were."""
    assert RaftConfig(2, (3, 2)).bootstrap.voters == (Voter(2), Voter(3))
