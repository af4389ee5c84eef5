"""A wrong setting is refused with its name."""

import pytest

from ottla_cluster.raft import RaftConfig


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"voters": ()}, "voters"),
        ({"voters": (1, 1)}, "voters"),
        ({"voters": (0, 1)}, "voters"),
        ({"voters": tuple(range(1, 10))}, "voters"),
        ({"voters": (2, 3)}, "node_id"),
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


def test_peers_are_the_other_voters_in_order():
    assert RaftConfig(2, (3, 2, 1)).peers == (1, 3)
