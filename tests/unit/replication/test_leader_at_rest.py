"""A leader at rest needs no ticks: whatever happened before, and whoever is eligible then."""

from hypothesis import given
from hypothesis import strategies as st

from ottla_cluster.replication.leader import NOTHING, IsrProposal, PartitionLeader

LAG_MS = 1000
EPOCHS = {1: 11, 2: 12, 3: 13}

steps = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 3)),
    st.tuples(st.just("fetch"), st.sampled_from([2, 3]), st.integers(0, 4)),
    st.tuples(st.just("tick"), st.integers(0, 2 * LAG_MS)),
    st.tuples(st.just("answer"), st.sampled_from(["accepted", "refused", "unknown"])),
    st.tuples(st.just("fenced"), st.sampled_from([2, 3])),
)


class Led:
    """A leader, and what a driver would keep of it."""

    def __init__(self):
        self.now_ms = 0
        self.end = 10
        self.partition_epoch = 20
        self.open: IsrProposal | None = None
        self.leader = PartitionLeader(
            local_id=1,
            leader_epoch=7,
            partition_epoch=self.partition_epoch,
            replicas=(1, 2, 3),
            isr=(1, 2, 3),
            epoch_start_offset=10,
            log_end_offset=10,
            high_watermark=5,
            min_insync_replicas=2,
            replica_lag_time_max_ms=LAG_MS,
            now_ms=0,
        )

    def take(self, output):
        self.open = output.proposal or self.open

    def apply(self, step):
        match step:
            case ("append", count):
                self.end += count
                self.take(self.leader.local_log_end_moved(self.end, self.now_ms))
            case ("fetch", replica_id, behind):
                self.take(
                    self.leader.follower_fetched(
                        replica_id, EPOCHS[replica_id], max(0, self.end - behind), self.now_ms
                    )
                )
            case ("tick", after_ms):
                self.now_ms += after_ms
                self.take(self.leader.tick(self.now_ms, EPOCHS))
            case ("answer", outcome) if self.open is not None:
                self.answer(outcome)
            case ("fenced", replica_id):
                isr = tuple(member for member in self.leader.isr if member != replica_id)
                self.partition_epoch = self.leader.partition_epoch + 1
                self.leader.partition_changed(isr, self.partition_epoch, (1, 2, 3), self.now_ms)

    def answer(self, outcome):
        proposal, self.open = self.open, None
        assert proposal is not None
        if outcome == "accepted":
            self.take(
                self.leader.proposal_accepted(
                    proposal, self.leader.partition_epoch + 1, self.now_ms
                )
            )
        else:
            self.take(
                self.leader.proposal_failed(proposal, self.now_ms, refused=outcome == "refused")
            )


@given(
    st.lists(steps, max_size=30),
    st.integers(0, 100 * LAG_MS),
    st.sets(st.sampled_from([2, 3])),
    st.sets(st.sampled_from([2, 3])),
)
def test_time_alone_decides_nothing_at_a_leader_at_rest(program, after_ms, fenced, draining):
    led = Led()
    for step in program:
        led.apply(step)
        if led.leader.is_at_rest:
            eligible = {broker: epoch for broker, epoch in EPOCHS.items() if broker not in fenced}
            later = led.leader.tick(led.now_ms + after_ms, eligible, tuple(draining))
            assert later == NOTHING
            assert led.leader.is_at_rest
            led.leader.brokers_changed(EPOCHS, ())


def test_a_leader_rests_once_everybody_has_everything():
    led = Led()
    assert not led.leader.is_at_rest
    for replica_id in (2, 3):
        led.apply(("fetch", replica_id, 0))
    assert led.leader.is_at_rest
    led.apply(("append", 1))
    assert not led.leader.is_at_rest
