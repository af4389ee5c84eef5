"""An abstract controller for one partition: always there, never forgetting, as the Raft log is.

It has the rules of design §4 and nothing else: sessions, fencing that never removes the last ISR
member, elections from the ISR, a compare-and-set of the ISR with broker epochs, new incarnations
that lose what the former one led. Each method is one rule, so that a mutant replaces one.
"""

from dataclasses import dataclass
from typing import NamedTuple


class Metadata(NamedTuple):
    """The metadata image as brokers see it; `version` rises with every change."""

    version: int
    leader: int | None
    leader_epoch: int
    partition_epoch: int
    isr: tuple[int, ...]
    eligible: dict[int, int]
    """Unfenced brokers and their broker epochs."""
    broker_epochs: dict[int, int]
    """All registered brokers and their broker epochs."""


@dataclass(slots=True)
class Registration:
    broker_epoch: int
    incarnation: int
    fenced: bool
    fenced_version: int
    last_heartbeat_ms: int


class Controller:
    def __init__(self, replicas: tuple[int, ...], session_timeout_ms: int) -> None:
        self.replicas = replicas
        self.session_timeout_ms = session_timeout_ms
        self.isr = replicas
        self.leader: int | None = replicas[0]
        self.leader_epoch = 0
        self.partition_epoch = 0
        self.version = 1
        self.next_broker_epoch = 100
        self.brokers: dict[int, Registration] = {}
        for broker_id in replicas:
            self.brokers[broker_id] = Registration(self._new_broker_epoch(), 0, False, 0, 0)
        self._metadata: Metadata | None = None

    @property
    def metadata(self) -> Metadata:
        if self._metadata is None or self._metadata.version != self.version:
            self._metadata = Metadata(
                self.version,
                self.leader,
                self.leader_epoch,
                self.partition_epoch,
                self.isr,
                {b: r.broker_epoch for b, r in self.brokers.items() if not r.fenced},
                {b: r.broker_epoch for b, r in self.brokers.items()},
            )
        return self._metadata

    # --- requests -------------------------------------------------------------------------------

    def register(self, broker_id: int, incarnation: int, now_ms: int) -> int:
        """A new incarnation is fenced at first and has lost what the former one had."""
        registration = self.brokers[broker_id]
        if incarnation < registration.incarnation:
            return -1  # A delayed registration of a process that is gone.
        if incarnation > registration.incarnation:
            registration.incarnation = incarnation
            registration.broker_epoch = self._new_broker_epoch()
            registration.last_heartbeat_ms = now_ms
            self.fence(broker_id)
            self.version += 1
            registration.fenced_version = self.version
        return registration.broker_epoch

    def heartbeat(self, broker_id: int, broker_epoch: int, version: int, now_ms: int) -> bool:
        """Whether the broker is unfenced after it."""
        registration = self.brokers[broker_id]
        if registration.broker_epoch != broker_epoch:
            return False
        registration.last_heartbeat_ms = now_ms
        if registration.fenced and version >= registration.fenced_version:
            registration.fenced = False
            self.version += 1
            if self.leader is None:
                self._change(self.isr, self.elect(None))
        return not registration.fenced

    def alter_isr(self, broker_id, broker_epoch, proposal) -> int | None:
        """The new partition epoch, or None when it is refused."""
        if (
            broker_id != self.leader
            or self.brokers[broker_id].broker_epoch != broker_epoch
            or proposal.leader_epoch != self.leader_epoch
            or proposal.partition_epoch != self.partition_epoch
            or not all(self.is_eligible(*member) for member in proposal.isr)
        ):
            return None
        # The partition epoch rises even when the ISR is what it was.
        self._change(tuple(member.replica_id for member in proposal.isr), self.leader)
        return self.partition_epoch

    def tick(self, now_ms: int) -> None:
        for broker_id, registration in self.brokers.items():
            silent_ms = now_ms - registration.last_heartbeat_ms
            if not registration.fenced and silent_ms > self.session_timeout_ms:
                self.fence(broker_id)

    def move_leader(self, broker_id: int) -> None:
        """A planned change of leader within the ISR."""
        if broker_id in self.isr and not self.brokers[broker_id].fenced:
            self._change(self.isr, broker_id)

    # --- rules ----------------------------------------------------------------------------------

    def fence(self, broker_id: int) -> None:
        registration = self.brokers[broker_id]
        registration.fenced = True
        self.version += 1
        registration.fenced_version = self.version
        isr = self.isr_without(broker_id)
        if isr != self.isr or self.leader == broker_id:
            leader = self.elect(isr) if self.leader == broker_id else self.leader
            self._change(isr, leader)

    def isr_without(self, broker_id: int) -> tuple[int, ...]:
        """The last member stays: nobody else is known to hold everything."""
        return tuple(member for member in self.isr if member != broker_id) or self.isr

    def elect(self, isr: tuple[int, ...] | None) -> int | None:
        members = self.isr if isr is None else isr
        for broker_id in self.replicas:
            if broker_id in members and not self.brokers[broker_id].fenced:
                return broker_id
        return None

    def is_eligible(self, replica_id: int, broker_epoch: int) -> bool:
        registration = self.brokers[replica_id]
        return not registration.fenced and registration.broker_epoch == broker_epoch

    def _change(self, isr: tuple[int, ...], leader: int | None) -> None:
        self.isr = isr
        if leader != self.leader:
            self.leader = leader
            self.leader_epoch += 1
        self.partition_epoch += 1
        self.version += 1

    def _new_broker_epoch(self) -> int:
        self.next_broker_epoch += 1
        return self.next_broker_epoch
