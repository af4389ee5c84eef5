"""Scripted runs: the interleavings that broke real systems, too rare to wait for at random.

Each schedule drives one cluster without random faults, message by message, and ends with a healed
cluster. Every step checks what must hold. Run with the real machines all of them pass; each is also
named beside the mutants that it catches.
"""

from ottla_cluster.replication.leader import PROPOSAL_RETRY_BACKOFF_MS
from tests.simulation.replication.broker import (
    CONTROLLER,
    HEARTBEAT_INTERVAL_MS,
    PROPOSAL_TIMEOUT_MS,
    REPLICA_LAG_TIME_MAX_MS,
    SESSION_TIMEOUT_MS,
    Broker,
)
from tests.simulation.replication.controller import Controller
from tests.simulation.replication.world import Options, World


class Script(World):
    """A cluster whose messages move only when the schedule says so."""

    def __init__(
        self,
        *,
        broker_class: type[Broker] = Broker,
        controller_class: type[Controller] = Controller,
        options: Options | None = None,
    ) -> None:
        super().__init__(
            options=options or Options(),
            broker_class=broker_class,
            controller_class=controller_class,
        )

    def pass_on(self, kind: str, src: int, dst: int) -> None:
        """Deliver the oldest such message; there must be one."""
        index = next(i for i, message in enumerate(self.network) if message[:3] == (kind, src, dst))
        self.deliver(index)
        self.check()

    def pass_on_proposals(self, leader: int) -> None:
        """Deliver what the leader has proposed, if anything."""
        while any(message[:3] == ("alter", leader, CONTROLLER) for message in self.network):
            self.pass_on("alter", leader, CONTROLLER)

    def require(self, condition: bool, rule: str) -> None:
        """What the schedule itself expects of a correct cluster."""
        if not condition:
            raise self.violated(rule)

    def lose(self, kind: str | None = None) -> None:
        """Lose all messages of a kind, or all."""
        self.network = [m for m in self.network if kind is not None and m[0] != kind]

    def append(self, leader: int, count: int = 1, *, acks_all: bool = True) -> None:
        """Records that are durable at the leader and nowhere else."""
        for _ in range(count):
            assert self.produce(self.brokers[leader], acks_all=acks_all)
        self.brokers[leader].sync()
        self.check()

    def fetch(self, follower: int, leader: int) -> None:
        """One fetch; what it brings is durable, but the leader does not know yet."""
        self.lose("fetch")
        self.brokers[follower].send_fetch()
        self.pass_on("fetch", follower, leader)
        self.pass_on("fetched", leader, follower)
        self.brokers[follower].sync()
        self.check()
        self.lose("fetch")

    def acknowledge(self, follower: int, leader: int) -> None:
        """A fetch whose answer is lost: the leader learns, the follower does not."""
        self.lose("fetch")
        self.brokers[follower].send_fetch()
        self.pass_on("fetch", follower, leader)
        self.lose("fetched")

    def replicate(self, leader: int, *followers: int) -> None:
        """Both sides have everything, and know the high watermark."""
        for _ in range(3):
            for follower in followers:
                self.fetch(follower, leader)

    def pass_time(self, passed_ms: int) -> None:
        self.now_ms += passed_ms

    def heartbeat(self, broker_id: int) -> None:
        broker = self.brokers[broker_id]
        broker.heartbeat_sent_ms = self.now_ms - HEARTBEAT_INTERVAL_MS
        broker.tick()
        self.pass_on("heartbeat", broker_id, CONTROLLER)
        self.pass_on("heartbeat_answer", CONTROLLER, broker_id)
        self.lose("metadata")

    def expire(self, gone: int, *present: int) -> None:
        """A session ends, while the others keep theirs and learn of it."""
        for _ in range(4):
            self.pass_time(SESSION_TIMEOUT_MS // 3)
            for broker_id in present:
                self.heartbeat(broker_id)
        self.controller_tick()
        self.check()
        assert self.controller.brokers[gone].fenced
        for broker_id in present:
            self.pass_on("metadata", CONTROLLER, broker_id)
        self.lose("metadata")

    def restart_as_new_incarnation(self, broker_id: int) -> None:
        """Registered, caught up and unfenced again."""
        broker = self.brokers[broker_id]
        broker.start()
        broker.tick()
        self.pass_on("register", broker_id, CONTROLLER)
        self.pass_on("registered", CONTROLLER, broker_id)
        self.lose("metadata")
        self.heartbeat(broker_id)
        self.heartbeat(broker_id)
        assert not self.controller.brokers[broker_id].fenced

    def lead(self, leader: int, *informed: int) -> None:
        """The controller moves the leadership, and these brokers learn of it."""
        self.controller.move_leader(leader)
        self.publish()
        for broker_id in informed:
            self.pass_on("metadata", CONTROLLER, broker_id)
        self.lose()

    def shrink_to(self, leader: int, *members: int) -> None:
        """The others lag until the leader has them out of the ISR."""
        self.append(leader, acks_all=False)
        self.pass_time(REPLICA_LAG_TIME_MAX_MS + 1)
        for member in members:
            if member != leader:
                self.replicate(leader, member)
        for broker_id in self.replicas:
            self.heartbeat(broker_id)
        self.pass_on("alter", leader, CONTROLLER)
        self.pass_on("altered", CONTROLLER, leader)
        self.lose()
        assert self.controller.isr == members

    def learn_eligible(self, leader: int) -> None:
        """The leader looks at which brokers are unfenced; nothing is sent for now."""
        self.heartbeat(leader)
        self.brokers[leader].tick()


def kip_101_data_loss(script: Script) -> None:
    """A follower that knows less than is committed becomes another leader's follower, then leader.

    Record 1 is on all three and acknowledged, but neither 2 nor 3 was told.
    """
    script.append(1)
    script.replicate(1, 2, 3)
    script.append(1)
    for follower in (2, 3):
        script.fetch(follower, 1)
        script.acknowledge(follower, 1)
    assert script.acknowledged == [0, 1]
    assert script.brokers[3].high_watermark == 1
    script.lose_power(script.brokers[1])
    script.expire(1, 2, 3)
    assert script.controller.leader == 2
    assert script.brokers[3].follower.leader_id == 2
    script.lose_power(script.brokers[2])
    script.expire(2, 3)
    assert script.controller.leader == 3
    assert script.brokers[3].log == script.committed


def kip_101_divergence(script: Script) -> None:
    """Two logs of one length with different records at one offset."""
    script.append(1)
    script.replicate(1, 2, 3)
    script.append(1)  # Only on 1, never acknowledged.
    script.lose_power(script.brokers[1])
    script.expire(1, 2, 3)
    script.replicate(2, 3)
    script.append(2)
    script.replicate(2, 3)
    assert script.acknowledged == [0, 1]
    script.restart_as_new_incarnation(1)
    assert len(script.brokers[1].log) == len(script.brokers[2].log) == 2
    assert script.brokers[1].log != script.brokers[2].log
    script.fetch(1, 2)
    assert len(script.brokers[1].log) == 1
    script.fetch(1, 2)
    assert script.brokers[1].log == script.brokers[2].log


def kip_279_fast_elections(script: Script) -> None:
    """The follower's last epoch is one that the new leader never saw.

    Broker 2 has two records of epoch 0, then three of epoch 1; broker 3 has four of epoch 0, then
    two of epoch 2. They agree on two records only.
    """
    script.append(1, 2)
    script.replicate(1, 2, 3)
    script.append(1, 2, acks_all=False)
    script.fetch(3, 1)
    script.lose_power(script.brokers[1])
    script.expire(1, 2, 3)
    script.append(2, 3, acks_all=False)
    script.expire(2, 3)
    assert script.controller.leader == 3
    script.append(3, 2, acks_all=False)
    script.brokers[2].broker_epoch = script.controller.brokers[2].broker_epoch
    script.heartbeat(2)
    script.heartbeat(2)
    script.learn_eligible(3)
    for _ in range(4):
        script.fetch(2, 3)
    script.require(script.brokers[2].log == script.brokers[3].log, "the logs differ")


def expansion_races_a_restart(script: Script) -> None:
    """KIP-903: the proposal names an incarnation whose disk is gone when it arrives."""
    script.append(1)
    script.replicate(1, 2, 3)
    script.shrink_to(1, 1, 2)
    script.learn_eligible(1)
    script.fetch(3, 1)
    script.fetch(3, 1)
    assert ("alter", 1, CONTROLLER) in [message[:3] for message in script.network]
    script.lose_power(script.brokers[3])
    script.brokers[3].wipe()
    script.restart_as_new_incarnation(3)
    script.pass_on("alter", 1, CONTROLLER)
    assert script.controller.isr == (1, 2)


def offsets_of_a_former_incarnation(script: Script) -> None:
    """The leader still knows where broker 3 was before it lost its disk."""
    script.append(1)
    script.replicate(1, 2, 3)
    script.shrink_to(1, 1, 2)
    script.learn_eligible(1)
    script.fetch(3, 1)
    script.fetch(3, 1)
    script.lose_power(script.brokers[3])
    script.brokers[3].wipe()
    script.restart_as_new_incarnation(3)
    script.pass_on("alter", 1, CONTROLLER)
    script.pass_on("altered", CONTROLLER, 1)
    script.heartbeat(1)  # Learns that 3 is unfenced, with another broker epoch.
    script.pass_time(PROPOSAL_RETRY_BACKOFF_MS)
    script.learn_eligible(1)
    script.pass_on_proposals(1)
    script.require(script.controller.isr == (1, 2), "an empty disk is in sync")


def expansion_before_the_epoch_start(script: Script) -> None:
    """The new leader's high watermark lags, so being level with it proves nothing."""
    script.append(1)
    script.replicate(1, 2, 3)
    script.shrink_to(1, 1, 2)  # Appends offset 1, which 3 does not have.
    script.brokers[2].high_watermark = 1  # What 2 would know had the last answers been lost.
    script.lose_power(script.brokers[1])
    script.expire(1, 2, 3)
    assert script.brokers[2].leader.high_watermark == 1
    assert len(script.committed) == 2
    script.learn_eligible(2)
    script.acknowledge(3, 2)
    script.pass_on_proposals(2)
    script.require(script.controller.isr == (2,), "a replica without a committed record joined")


def commit_while_a_member_is_proposed(script: Script) -> None:
    """KIP-497: the proposal is on its way while the committed ISR goes on."""
    script.append(1)
    script.replicate(1, 2, 3)
    script.shrink_to(1, 1, 2)
    script.learn_eligible(1)
    script.replicate(1, 2)
    script.fetch(3, 1)
    script.fetch(3, 1)  # Level with the high watermark: proposed.
    script.pass_time(REPLICA_LAG_TIME_MAX_MS + 1)
    script.append(1)
    script.fetch(2, 1)
    script.acknowledge(2, 1)
    script.pass_on("alter", 1, CONTROLLER)
    assert script.controller.isr == (1, 2, 3)
    assert script.brokers[1].high_watermark == 2


def late_copy_of_an_unanswered_proposal(script: Script) -> None:
    """The leader gave up waiting, but the proposal is only late."""
    script.append(1)
    script.replicate(1, 2, 3)
    script.shrink_to(1, 1, 2)
    script.learn_eligible(1)
    script.replicate(1, 2)
    script.fetch(3, 1)
    script.fetch(3, 1)
    assert script.brokers[1].proposal is not None
    script.pass_time(max(PROPOSAL_TIMEOUT_MS, REPLICA_LAG_TIME_MAX_MS) + 1)
    script.brokers[1].tick()
    assert script.brokers[1].proposal is None
    script.append(1)
    script.fetch(2, 1)
    script.acknowledge(2, 1)
    script.pass_on("alter", 1, CONTROLLER)
    assert script.controller.isr == (1, 2, 3)


def late_proposal_after_the_partition_changed(script: Script) -> None:
    """Compare-and-set: what the proposal was based on is history when it arrives."""
    script.append(1)
    script.replicate(1, 2, 3)
    script.shrink_to(1, 1, 2)
    script.learn_eligible(1)
    script.replicate(1, 2)
    script.fetch(3, 1)
    script.fetch(3, 1)
    late = next(message for message in script.network if message[0] == "alter")
    script.lose()
    script.expire(2, 1, 3)
    script.lose()
    script.learn_eligible(1)
    script.replicate(1, 3)
    script.pass_on("alter", 1, CONTROLLER)
    script.pass_on("altered", CONTROLLER, 1)
    assert script.controller.isr == (1, 3)
    script.append(1)
    script.replicate(1, 3)
    script.heartbeat(2)
    script.heartbeat(2)
    script.network.append(late)
    script.pass_on("alter", 1, CONTROLLER)
    script.require(script.controller.isr == (1, 3), "a proposal of the past was taken")


def fetch_of_a_leadership_long_past(script: Script) -> None:
    """KIP-320: a fetch arrives when its receiver leads again, and its sender has cut that record.

    Record 1 is on 1 and 3 when 2 is made leader; 3 gives it up before 1 is made leader again.
    """
    script.append(1)
    script.replicate(1, 2, 3)
    script.append(1)
    script.fetch(3, 1)
    script.brokers[3].send_fetch()
    old = next(message for message in script.network if message[0] == "fetch")
    script.lose()
    script.lead(2, 2, 3)
    script.fetch(3, 2)
    assert len(script.brokers[3].log) == 1
    script.lead(1, 1, 2, 3)
    script.network.append(old)
    script.pass_on("fetch", 3, 1)
    script.fetch(2, 1)
    script.acknowledge(2, 1)
    script.require(script.brokers[1].high_watermark == 1, "a fetch of an older epoch counted")


def leader_wakes_after_a_pause(script: Script) -> None:
    """Another leads meanwhile; the woken one neither reads nor writes nor commits."""
    script.append(1)
    script.replicate(1, 2, 3)
    for broker_id in (1, 2, 3):
        script.heartbeat(broker_id)
    script.expire(1, 2, 3)
    script.replicate(2, 3)
    script.append(2)
    script.replicate(2, 3)
    assert script.acknowledged == [0, 1]
    woken = script.brokers[1]
    assert woken.leader is not None
    script.read_latest(woken)
    if script.options.enforce_lease:
        assert not script.produce(woken)
    elif script.produce(woken):
        woken.sync()
        script.check()
    assert script.acknowledged == [0, 1]


def leader_whose_heartbeats_are_answered_late(script: Script) -> None:
    """A session counts from the sending: the answer may come when the session is over."""
    script.append(1)
    script.replicate(1, 2, 3)
    leader = script.brokers[1]
    leader.heartbeat_sent_ms = -HEARTBEAT_INTERVAL_MS
    leader.tick()
    script.pass_on("heartbeat", 1, CONTROLLER)
    answer = next(message for message in script.network if message[0] == "heartbeat_answer")
    script.expire(1, 2, 3)
    script.replicate(2, 3)
    script.append(2)
    script.replicate(2, 3)
    script.network.append(answer)
    script.pass_on("heartbeat_answer", CONTROLLER, 1)
    script.read_latest(leader)


def last_member_is_fenced(script: Script) -> None:
    """Nobody leads until the only replica that has everything is back."""
    script.append(1)
    script.replicate(1, 2, 3)
    script.shrink_to(1, 1, 2)
    script.shrink_to(1, 1)
    script.lose_power(script.brokers[1])
    script.expire(1, 2, 3)
    assert script.controller.leader is None
    assert script.controller.isr == (1,)
    script.restart_as_new_incarnation(1)
    assert script.controller.leader == 1


SCHEDULES = {
    schedule.__name__: schedule
    for schedule in (
        kip_101_data_loss,
        kip_101_divergence,
        kip_279_fast_elections,
        expansion_races_a_restart,
        offsets_of_a_former_incarnation,
        expansion_before_the_epoch_start,
        commit_while_a_member_is_proposed,
        late_copy_of_an_unanswered_proposal,
        late_proposal_after_the_partition_changed,
        fetch_of_a_leadership_long_past,
        leader_wakes_after_a_pause,
        leader_whose_heartbeats_are_answered_late,
        last_member_is_fenced,
    )
}
