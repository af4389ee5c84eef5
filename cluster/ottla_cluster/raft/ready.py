"""What one input to the Raft node asks of its driver."""

from dataclasses import dataclass, field
from enum import StrEnum

from ottla_cluster.raft.messages import (
    Compaction,
    Entry,
    HardState,
    Message,
    RememberedStart,
    Snapshot,
)
from ottla_cluster.raft.reads import ReadConfirmed


class Role(StrEnum):
    """What a voter is doing; `node` tells the transitions."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre_candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


@dataclass(frozen=True, slots=True)
class Proposed:
    """Where a proposal stands in the log.

    It is committed when the entry at `last_index` is applied with this term. When an entry of
    another term is applied at one of its indexes, that one and all later ones are lost. So a
    proposal of several payloads may be cut short, and only one payload is all or nothing.
    """

    first_index: int
    last_index: int
    term: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The result of one input: persist, then send, then apply; only then give the next input.

    Attributes:
        hard_state: present exactly when there is something to persist.
        compaction: first replace the persisted snapshot and what goes with it by this, and delete
            the persisted entries up to `compacted_index`.
        truncate_from: delete the persisted entries from this index on, before appending.
        remembered: replace what is remembered of these nodes, by node id.
        entries: append these, in one transaction with all of the above.
        messages: send these once all of that is durable; losing one is harmless.
        snapshot: replace the state machine's state by this one, before applying `committed`.
        committed: apply these, in order, no-ops included.
        confirmed_reads: serve these after applying `committed`.
        failed_reads: tokens of reads that this node can no longer confirm: ask the new leader.
        proposed: where the proposal of this input went; None for other inputs.
        term: the current term.
        role: the role after this input.
        leader_id: the leader that the node knows, itself included.
        commit_index: how far the log is known to be committed.
    """

    hard_state: HardState | None
    compaction: Compaction | None
    truncate_from: int | None
    entries: tuple[Entry, ...]
    messages: tuple[Message, ...]
    snapshot: Snapshot | None
    committed: tuple[Entry, ...]
    confirmed_reads: tuple[ReadConfirmed, ...]
    failed_reads: tuple[int, ...]
    proposed: Proposed | None
    term: int
    role: Role
    leader_id: int | None
    commit_index: int
    remembered: tuple[tuple[int, RememberedStart], ...] = ()

    @property
    def must_persist(self) -> bool:
        """Whether a durable write must end before the messages leave."""
        return self.hard_state is not None


@dataclass(slots=True)
class Outputs:
    """What gathers while an input is handled, until `Ready` takes it."""

    messages: list[Message] = field(default_factory=list)
    confirmed_reads: list[ReadConfirmed] = field(default_factory=list)
    failed_reads: list[int] = field(default_factory=list)

    @property
    def pending(self) -> bool:
        """Whether an input that raised left something for the next Ready."""
        return bool(self.messages or self.confirmed_reads or self.failed_reads)

    def clear(self) -> None:
        """Forget everything: a Ready has taken it."""
        self.messages.clear()
        self.confirmed_reads.clear()
        self.failed_reads.clear()
