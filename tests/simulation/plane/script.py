"""The plane played by hand: nothing is random, and messages can be held back.

Five processes; the partition `key` is on three of them, none of which runs the controller, so that
a script can do to brokers what it does not do to the quorum. Every message takes a millisecond,
every write is on disk at once. All invariants watch as in a random run.
"""

from ottla_cluster.controller.commands import (
    AlterPartition,
    AlterReassignments,
    AlterReplicationThrottle,
    ElectPreferred,
    Reassignment,
)
from ottla_protocol.errors import OttlaError
from tests.simulation.plane.options import Options
from tests.simulation.plane.process import Process
from tests.simulation.plane.replica_log import Record
from tests.simulation.plane.timing import REPLICA_LAG_TIME_MAX_MS
from tests.simulation.plane.voter import Voter
from tests.simulation.plane.world import World

TOPICS_MAX = 12
PATIENCE_MS = 3_000


class Hold:
    """Messages that match are kept back from now on, until they are released or dropped."""

    def __init__(self, script, matches):
        self.messages = []
        self._script = script
        self._matches = matches

    def takes(self, kind, sender, receiver, arguments):
        return self._matches(kind, sender, receiver, arguments)

    def end(self):
        """Hold nothing more; what was held stays held."""
        if self in self._script.holds:
            self._script.holds.remove(self)
        return self

    def release(self):
        """Deliver what was held, and hold nothing more."""
        self.end()
        messages, self.messages = self.messages, []
        for message in messages:
            self._script.after(1, self._script._deliver, *message)


class Script(World):
    """A formed cluster with one partition of three replicas.

    Args:
        settings: further fields of Options.
    """

    def __init__(self, process_class=Process, voter_class=Voter, **settings):
        settings = {"process_count": 5, "delay_max_ms": 0, "sync_max_ms": 0, "seed": 1} | settings
        self.holds = []
        super().__init__(Options(**settings), process_class, voter_class)
        self.network.is_faulty = False
        self.answers = []
        self._next_sequence = 0
        self._producer_id = 1_000_000
        self.form()
        self.until(lambda: self.keys, "the cluster does not form")
        for _ in range(TOPICS_MAX):
            if self._is_apart(self.keys[-1]):
                break
            count = len(self.keys)
            self.administrator.create(1, self.add_clients)
            self.until(lambda count=count: len(self.keys) > count, "no topic is made")
        self.key = self.keys[-1]
        self.run(100)

    def _is_apart(self, key):
        replicas = self.state_of(key).replicas
        return len(self.processes) == 3 or self.controller() not in replicas

    def add_clients(self, keys):
        """Scripts are their own clients."""
        self.keys.extend(keys)

    def send_between(self, sender, receiver, kind, arguments, *, once=False):
        message = (kind, sender, receiver, arguments)
        for hold in self.holds:
            if hold.takes(*message):
                hold.messages.append(message)
                return
        self.after(1, self.network._arrive, (sender, receiver), self._deliver, message)

    # --- time -----------------------------------------------------------------------------------

    def run(self, duration_ms):
        self.run_until(self.now_ms + duration_ms)
        self.now_ms = max(self.now_ms, self._heap[0][0] if self._heap else 0)

    def until(self, condition, complaint, patience_ms=PATIENCE_MS):
        self.run_until(self.now_ms + patience_ms, condition)
        self.require(condition(), complaint)

    def require(self, condition, rule):
        """What the schedule itself expects of a correct cluster."""
        self.invariants.require(condition, rule)

    def finish(self):
        """Undo everything; then all must be equal, and new records be taken."""
        for hold in list(self.holds):
            hold.end()
        keys, self.keys = self.keys, []
        World.add_clients(self, keys)
        self.heal()
        self.await_liveness()

    # --- who is who -----------------------------------------------------------------------------

    def state_of(self, key):
        return self.invariants.image.topics[key[0]].partitions[key[1]]

    @property
    def state(self):
        return self.state_of(self.key)

    def controller(self):
        """The newest active controller."""
        active = [p for p in self.processes.values() if p.controller.active is not None]
        return max(active, key=lambda p: p.voter.node.term).node_id if active else None

    def leader_among(self, node_ids):
        """Who of these leads the quorum; None where nobody does."""
        return next((n for n in node_ids if self._leads_quorum(n)), None)

    def _leads_quorum(self, node_id):
        node = self.hosts[node_id].node
        return node is not None and node.role == "leader"

    def replica(self, node_id):
        return self.processes[node_id].replicas[self.key]

    def end_of(self, node_id):
        return self.replica(node_id).log.next_offset

    @property
    def committed_end(self):
        return len(self.invariants.history(self.key).committed)

    # --- what scripts do ------------------------------------------------------------------------

    def hold(self, kind=None, *, sender=None, receiver=None, where=lambda arguments: True):
        hold = Hold(
            self,
            lambda k, s, r, a: (
                kind in (None, k) and sender in (None, s) and receiver in (None, r) and where(a)
            ),
        )
        self.holds.append(hold)
        return hold

    def hold_news(self, sender, receiver):
        """Hold fetch answers without records: they tell nothing but the high watermark."""
        return self.hold(
            "fetched",
            sender=sender,
            receiver=receiver,
            where=lambda a: not any(records for *_, records in a[2]),
        )

    def asks(self, fetch, offset):
        """Whether a fetch asks for the partition from this offset."""
        position = fetch.positions.get(self.key)
        return position is not None and position.offset == offset

    def hold_proposals(self, sender):
        return self.hold("command", sender=sender, where=lambda a: isinstance(a[1], AlterPartition))

    def add_voter(self, leader, node_id):
        url = f"http://{node_id}"
        self.hosts[leader].act(lambda node, now_ms: node.add_voter(node_id, url, now_ms))

    def remove_voter(self, leader, node_id, *, force=False):
        self.hosts[leader].act(lambda node, now_ms: node.remove_voter(node_id, now_ms, force=force))

    def transfer_leadership(self, leader, node_id):
        self.hosts[leader].act(lambda node, now_ms: node.transfer_leadership(node_id, now_ms))

    def cut(self, some, others):
        """Cut all links between the two, both ways."""
        for a in some:
            for b in others:
                self.network.blocked.update(((a, b), (b, a)))

    def kill(self, *node_ids):
        for node_id in node_ids:
            self.processes[node_id].crash()

    def start(self, *node_ids):
        for node_id in node_ids:
            self.processes[node_id].start()

    def come_back(self, node_id):
        """Kill the broker and have it back, unfenced, as a new incarnation."""
        former = self.processes[node_id].broker_epoch
        self.kill(node_id)
        self.start(node_id)

        def is_back():
            broker = self.invariants.image.brokers[node_id]
            return broker.broker_epoch > former and broker.state == "active"

        self.until(is_back, "a broker does not come back")

    def replace_disk(self, node_id):
        """The same, with a disk that is empty where the broker is in no ISR."""
        self.processes[node_id].loses_disk = True
        self.come_back(node_id)

    def record(self, *, again=False):
        """The next record of the script's producer, or the last one once more."""
        if not again:
            self._record = Record(-1, self.new_token(), self._producer_id, self._next_sequence)
            self._next_sequence += 1
        return self._record

    def produce(self, node_id, *, acks_all=True, again=False):
        """Give the broker a record; its answers, now or later, in the order in which they come."""
        record = self.record(again=again)
        answers = []

        def answer(outcome):
            answers.append(outcome)
            if not isinstance(outcome, OttlaError):
                self.invariants.produced(self.key, record.value, outcome, acks_all=acks_all)

        self.replica(node_id).produce(record, acks_all, answer)
        return answers

    def commit(self, node_id):
        """A record that is acknowledged by all."""
        self.until(self.leads(node_id), "it does not lead")
        answers = self.produce(node_id)
        self.until(lambda: answers, "a record is not acknowledged")
        self.require(not isinstance(answers[0], OttlaError), f"a record is refused: {answers}")

    def command(self, command):
        """Have the controller decide, as a broker beside it would ask."""
        controller = self.processes[self.controller()].controller
        outcomes = []
        controller.execute(command, outcomes.append)
        self.until(lambda: outcomes, "the controller does not answer")
        return outcomes[0]

    def elect_preferred(self):
        self.command(ElectPreferred())

    def commit_at_the_leader(self):
        self.until(lambda: self.state.leader is not None, "nobody leads")
        self.commit(self.state.leader)

    def reassign(self, replicas):
        state = self.state
        self.command(AlterReassignments((Reassignment(state.topic, state.partition, replicas),)))

    def throttle(self, bytes_per_second):
        self.command(AlterReplicationThrottle(bytes_per_second))

    def new_producer(self):
        self._producer_id += 1
        self._next_sequence = 0

    def latest(self, node_id):
        """What the broker says `latest` is: an error, or all that was acknowledged."""
        replica = self.replica(node_id)
        try:
            end = replica.readable_end()
        except OttlaError:
            return
        if replica.leader is not None and replica.leader.latest_offset_available:
            floor = self.invariants.history(self.key).acknowledged_end
            self.require(end >= floor, "latest covers what was acknowledged")

    def look_up(self, node_id, position):
        """Read at the broker; the code of its error, or None."""
        try:
            self.processes[node_id].read(self.key, position)
        except OttlaError as error:
            return error.code
        return None

    def leads(self, node_id):
        return lambda: (
            self.state.leader == node_id
            and node_id in self.processes
            and self.key in self.processes[node_id].replicas
            and self.replica(node_id).leader is not None
            and self.replica(node_id).leader.leader_epoch == self.state.leader_epoch
        )

    def leave_isr(self, node_id, leader):
        """Have the broker fall behind until it is out of the ISR: it fetches nothing meanwhile."""
        lag = self.hold("fetch", sender=node_id)
        self.produce(leader, acks_all=False)
        self.until(lambda: node_id not in self.state.isr, "nobody leaves the ISR")
        self.run(REPLICA_LAG_TIME_MAX_MS)
        return lag


def caught(schedule, process_class=Process, voter_class=Voter):
    """What a schedule ends with: None where nothing is wrong."""
    try:
        schedule(process_class, voter_class)
    except Exception as error:
        return error
    return None
