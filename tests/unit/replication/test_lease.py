"""The lease: counted from the sending of the heartbeat."""

from ottla_cluster.replication.lease import BrokerLease


def test_it_is_not_held_before_a_heartbeat_is_confirmed():
    lease = BrokerLease(3000)
    assert not lease.valid(0)
    assert lease.expires_at_ms is None
    assert lease.confirmed_at_ms is None


def test_it_counts_from_the_sending():
    lease = BrokerLease(3000)
    lease.confirmed(1000)
    assert lease.valid(3999)
    assert not lease.valid(4000)
    assert lease.expires_at_ms == 4000
    assert lease.confirmed_at_ms == 1000


def test_a_late_answer_to_an_older_heartbeat_shortens_nothing():
    lease = BrokerLease(3000)
    lease.confirmed(1000)
    lease.confirmed(500)
    assert lease.valid(3999)


def test_a_paused_process_finds_it_run_out_until_confirmed_again():
    lease = BrokerLease(3000)
    lease.confirmed(1000)
    assert not lease.valid(60_000)
    lease.confirmed(60_001)
    assert lease.valid(60_002)


def test_fencing_ends_it_at_once():
    lease = BrokerLease(3000)
    lease.confirmed(1000)
    lease.revoked()
    assert not lease.valid(1001)
