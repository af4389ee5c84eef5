"""A session's fetch stands for a fetch of every partition in it, though nobody visits them."""

from hypothesis import example, given
from hypothesis import strategies as st

from ottla_cluster.replication.leader import PartitionLeader

LAG_MS = 1000
EPOCHS = {1: 11, 2: 12, 3: 13}

steps = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 3)),
    # A fetch that names the partition, so far behind the end; and one that does not.
    st.tuples(st.just("named"), st.sampled_from([2, 3]), st.integers(0, 4)),
    st.tuples(st.just("unnamed"), st.sampled_from([2, 3])),
    st.tuples(st.just("wait"), st.integers(1, LAG_MS)),
    st.tuples(st.just("tick")),
)


def lead():
    leader = PartitionLeader(
        local_id=1,
        leader_epoch=7,
        partition_epoch=20,
        replicas=(1, 2, 3),
        isr=(1, 2, 3),
        epoch_start_offset=10,
        log_end_offset=10,
        high_watermark=5,
        min_insync_replicas=2,
        replica_lag_time_max_ms=LAG_MS,
        now_ms=0,
    )
    leader.brokers_changed(EPOCHS, ())
    return leader


class Compared:
    """One leader that hears every fetch at once, and one that hears of sessions when it matters."""

    def __init__(self, hear_before_appends=True):
        self.at_once, self.later = lead(), lead()
        self.hear_before_appends = hear_before_appends
        self.now_ms = 0
        self.end = 10
        self.offsets = {}
        self.used_ms = {}

    def hear(self):
        for replica_id, used_ms in self.used_ms.items():
            self.later.session_fetched(replica_id, EPOCHS[replica_id], used_ms)

    def both(self, call):
        self.hear()
        assert call(self.at_once) == call(self.later)

    def apply(self, step):
        # Two fetches of the same millisecond are one to a leader that hears of the last alone.
        self.now_ms += 1
        now_ms = self.now_ms
        match step:
            case ("append", count):
                self.end += count
                if self.hear_before_appends:
                    self.hear()
                for leader in (self.at_once, self.later):
                    leader.local_log_end_moved(self.end, now_ms)
            case ("named", replica_id, behind):
                offset = self.offsets[replica_id] = max(0, self.end - behind)
                epoch = EPOCHS[replica_id]
                self.both(lambda leader: leader.follower_fetched(replica_id, epoch, offset, now_ms))
                self.used_ms[replica_id] = now_ms
            case ("unnamed", replica_id) if replica_id in self.offsets:
                offset, epoch = self.offsets[replica_id], EPOCHS[replica_id]
                self.at_once.follower_fetched(replica_id, epoch, offset, now_ms)
                self.used_ms[replica_id] = now_ms
            case ("wait", after_ms):
                self.now_ms += after_ms
            case ("tick",):
                self.both(lambda leader: leader.tick(now_ms, EPOCHS))

    def run(self, program):
        for step in program:
            self.apply(step)
        self.hear()
        assert self.at_once._followers == self.later._followers
        assert self.at_once.high_watermark == self.later.high_watermark


QUIET_THEN_BUSY = [
    ("named", 2, 0),
    ("wait", LAG_MS),
    ("unnamed", 2),
    ("append", 1),
    ("wait", LAG_MS // 2),
    ("tick",),
]


@given(st.lists(steps, max_size=30))
@example(QUIET_THEN_BUSY)
def test_what_is_heard_when_it_matters_is_what_would_have_been_heard_at_once(program):
    Compared().run(program)


def test_a_follower_of_a_quiet_partition_is_not_late_when_something_is_appended():
    compared = Compared()
    compared.run(QUIET_THEN_BUSY)
    assert 2 in {member.replica_id for member in compared.later._in_flight.isr}


def test_hearing_of_a_session_only_after_an_append_would_be_noticed():
    """Planted: by then it looks as if the follower had lagged since it was named last."""
    try:
        Compared(hear_before_appends=False).run(QUIET_THEN_BUSY)
    except AssertionError:
        return
    raise AssertionError("nothing noticed it")
