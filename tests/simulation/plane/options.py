"""A whole run from its seed: the cluster, its clients, and a random subset of the faults."""

from dataclasses import dataclass, fields
from random import Random

FAULTS = (
    "kill",
    "kill_controller",
    "kill_leader",
    "kill_writing",
    "power_loss",
    "restart_cleanly",
    "replace_disk",
    "lose_tail",
    "partition",
    "isolate",
    "one_way",
    "pause",
    "pause_minority",
    "clock_step",
    "hang_disk",
    "fill_disk",
    "reassign",
    "throttle",
    "create_topic",
    "change_voters",
    "transfer_leadership",
)


@dataclass(frozen=True, slots=True)
class Options:
    """One run; times in simulated milliseconds, probabilities per message.

    Attributes:
        process_count: all of them brokers.
        observer_count: the last of them, which no configuration names at first: they have no vote.
        has_directories: whether data directories have ids, and the log names them.
        is_unclean: whether topics would rather lose records than wait for a replica in sync.
    """

    seed: int
    process_count: int = 3
    observer_count: int = 0
    has_directories: bool = False
    partition_count: int = 2
    replication_factor: int = 3
    min_insync_replicas: int = 2
    is_unclean: bool = False
    producer_count: int = 2
    acks_one: float = 0.0
    reader_count: int = 2
    produce_interval_ms: int = 40
    read_interval_ms: int = 80
    fetch_records_max: int = 100
    faulty_ms: int = 900
    fault_interval_ms: int = 100
    faults: tuple = ()
    loss: float = 0.0
    duplication: float = 0.0
    late: float = 0.0
    late_max_ms: int = 300
    delay_max_ms: int = 2
    sync_max_ms: int = 2
    drift: float = 0.0
    is_refusing: bool = True
    compaction_interval_ms: int | None = None
    max_append_entries: int = 1_024
    retained_entries: int = 0
    max_snapshot_chunk_bytes: int = 1 << 18
    preferred_election_interval_ms: int = 1_000_000

    @classmethod
    def from_seed(cls, seed):
        random = Random(seed)
        process_count, observer_count = random.choice(((3, 0),) * 6 + ((4, 1), (5, 0), (5, 2)))
        faults = [fault for fault in FAULTS if random.random() < 0.3]
        # Drawn apart, so that it changes no other run.
        loses_directory = Random(~seed).random() < 0.1
        if loses_directory:
            faults.append("lose_directory")
        # Fewer processes have no quorum without those that are in sync.
        is_unclean = process_count > 3 and random.random() < 0.15
        if is_unclean:
            random.shuffle(faults)
            faults = [*faults[:1], "strand", "strand"]
        return cls(
            seed=seed,
            process_count=process_count,
            observer_count=observer_count,
            has_directories="change_voters" in faults,
            partition_count=random.choice((1, 1, 1, 2)),
            # The one that is left of a quorum's minority must be the last in sync.
            replication_factor=random.choice((3, 3, 3, 2)) if not loses_directory else 2,
            min_insync_replicas=random.choice((2, 2, 2, 1)),
            is_unclean=is_unclean,
            producer_count=random.choice((1, 1, 2)),
            acks_one=random.choice((0.0, 0.0, 0.3)),
            reader_count=1,
            produce_interval_ms=random.choice((8, 20, 40)),
            read_interval_ms=random.choice((20, 50)),
            fetch_records_max=random.choice((1, 3, 100)),
            faulty_ms=2_000 if is_unclean else random.choice((300, 500, 900)),
            fault_interval_ms=random.choice((500, 900) if is_unclean else (30, 70, 150)),
            faults=tuple(faults),
            loss=random.choice((0.0, 0.0, 0.0, 0.02, 0.1)),
            duplication=random.choice((0.0, 0.02, 0.2)),
            late=random.choice((0.0, 0.02, 0.1)),
            late_max_ms=random.choice((100, 500)),
            delay_max_ms=random.choice((1, 4, 15)),
            sync_max_ms=random.choice((1, 5, 30)),
            drift=random.choice((0.0, 0.0, 0.0, 0.05)),
            is_refusing=random.random() < 0.7,
            compaction_interval_ms=random.choice((None, 60, 200)),
            retained_entries=random.choice((0, 3, 100)),
            max_snapshot_chunk_bytes=random.choice((100, 1 << 18)),
            preferred_election_interval_ms=random.choice((150, 1_000_000, 1_000_000)),
        )

    @property
    def is_realtime(self):
        """Whether leases bound what a leader answers, save for a while after some events.

        Clocks run alike, and nothing that was acknowledged is given up.
        """
        return not self.drift and not self.is_unclean

    def __str__(self):
        return ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in fields(self))
