"""Random lives of consumer instances of the REST Proxy API, on top of those of groups.

Clients ask brokers in turn for records, commit all they got and nothing else. Brokers serve as
`services/rest_consumers.py` does, over the same bad network to a coordinator that fails over; they
die between any two steps of a request, and what they were about to send may reach its client or
not. Partitions have more records than anybody reads. What must hold at every moment: whatever the
group has committed, its clients have got.
"""

from collections import defaultdict

from ottla_cluster.groups.instance_commands import (
    CommitInstance,
    CreateInstance,
    InstanceSettings,
    OfferRecords,
    PollInstance,
    RemoveInstance,
    SettleDelivery,
    SubscribeInstance,
)
from ottla_protocol.errors import NotFoundError, OttlaError
from tests.simulation.groups.groups_simulation import STEADY, GroupsSimulation
from tests.simulation.groups.process import REQUEST_TIMEOUT_MS, SESSION_TIMEOUT_MS

INSTANCES = "rest"
"""The group whose members are instances."""

CLIENTS = 3
ASK_AGAIN_MS = 100
IDLE_MS = 3 * SESSION_TIMEOUT_MS
DELIVERY_WAIT_MS = 4_000


class InstancesSimulation(GroupsSimulation):
    """One seeded run; `run` raises AssertionError where a record that was committed is unread."""

    def __init__(self, seed):
        super().__init__(seed)
        self.got = defaultdict(set)
        self.delivering = set()
        self.broker_epoch = 0
        self.clients = [RestClient(self, f"instance-{number}") for number in range(CLIENTS)]

    def run(self, faulty_ms):
        for client in self.clients:
            self.after(self.random.randint(0, 2_000), client.ask)
        super().run(faulty_ms)

    def settle(self):
        """In the end every partition is read and committed behind where it was."""
        before = self._committed_offsets()
        super().settle()
        after = self._committed_offsets()
        assert len(after) == self.view.topics[STEADY].partitions
        assert all(offset > before.get(number, 0) for number, offset in after.items()), after

    def _committed_offsets(self):
        group = self.committed.groups.get(INSTANCES)
        offsets = {} if group is None else group.offsets
        return {number: each.offset for (_, number), each in offsets.items()}

    def _replicate(self):
        super()._replicate()
        for number, offset in self._committed_offsets().items():
            unread = set(range(offset)) - self.got[number]
            assert not unread, f"{STEADY}-{number}: {offset} is committed, {unread} is unread"


class RestClient:
    """One client with its instance: asks, commits, and now and then begins anew."""

    def __init__(self, simulation, name):
        self.simulation = simulation
        self.random = simulation.random
        self.name = name
        self.creations = 0
        self.is_made = False

    def ask(self):
        """Has some broker serve the next request; goes on after its end, or after a while."""
        choices = [self._read, self._read, self._read, self._commit]
        if self.simulation.faulty and self.random.random() < 0.03:
            choices = [self._remove]
        request = self.random.choice(choices) if self.is_made else self._create
        self.simulation.counts[request.__name__] += 1
        broker = Broker(self.simulation)
        broker.serve(request(broker), lambda: self.simulation.after(ASK_AGAIN_MS, self.ask))

    def _create(self, broker):
        self.creations += 1
        settings = InstanceSettings("binary", "earliest", False, -1, None, IDLE_MS)
        creation = f"{self.name} {self.creations}"
        yield CreateInstance(INSTANCES, self.name, creation, settings)
        outcome = yield SubscribeInstance(INSTANCES, self.name, (STEADY,))
        self.is_made = not isinstance(outcome, OttlaError)

    def _remove(self, broker):
        yield RemoveInstance(INSTANCES, self.name)
        self.is_made = False

    def _commit(self, broker):
        yield from broker.when_settled(
            lambda void: CommitInstance(INSTANCES, self.name, None, void)
        )

    def _read(self, broker):
        state = yield from broker.when_settled(
            lambda void: PollInstance(INSTANCES, self.name, void)
        )
        if isinstance(state, OttlaError):
            self.is_made &= not isinstance(state, NotFoundError)
            return
        starts = [
            replaced(each, each.offset or 0)
            for each in state.partitions
            if self.random.random() < 0.7
        ]
        if not starts:
            return
        ends = [replaced(each, each.offset + self.random.randint(1, 3)) for each in starts]
        delivery_id = broker.new_delivery()
        outcome = yield OfferRecords(
            INSTANCES, self.name, delivery_id, 1, broker.epoch, tuple(starts), tuple(ends)
        )
        is_delivered = not isinstance(outcome, OttlaError) and self.random.random() < 0.8
        if is_delivered:
            self.simulation.counts["delivered"] += 1
            for start, end in zip(starts, ends, strict=True):
                self.simulation.got[start.partition].update(range(start.offset, end.offset))
        yield SettleDelivery(INSTANCES, self.name, delivery_id, is_delivered)
        broker.simulation.delivering.discard(delivery_id)


class Broker:
    """Serves one request, and dies with some of them."""

    def __init__(self, simulation):
        self.simulation = simulation
        simulation.broker_epoch += 1
        self.epoch = simulation.broker_epoch

    def new_delivery(self):
        delivery_id = f"delivery {self.epoch}"
        self.simulation.delivering.add(delivery_id)
        return delivery_id

    def when_settled(self, command_of):
        """As the service: waits for other requests' records, unless their broker is gone."""
        void, end_ms = None, self.simulation.now_ms + DELIVERY_WAIT_MS
        while True:
            outcome = yield command_of(void)
            if isinstance(outcome, OttlaError) or outcome.pending is None:
                return outcome
            is_over = outcome.pending.delivery_id not in self.simulation.delivering
            if is_over or self.simulation.now_ms >= end_ms:
                void = outcome.pending.delivery_id

    def serve(self, request, done):
        """Carries out the commands of a request one after the other; each is repeated until it is
        answered, as calls to a coordinator are.
        """
        simulation = self.simulation

        def go_on(outcome):
            if simulation.faulty and simulation.random.random() < 0.03:
                simulation.counts["died"] += 1
                simulation.delivering.discard(f"delivery {self.epoch}")
                simulation.after(simulation.random.randint(0, SESSION_TIMEOUT_MS), done)
                return
            try:
                command = request.send(outcome)
            except StopIteration:
                done()
            else:
                send(command)

        def send(command):
            is_answered = False

            def answered(outcome):
                nonlocal is_answered
                if is_answered:
                    return
                if isinstance(outcome, OttlaError) and outcome.retriable:
                    return
                is_answered = True
                go_on(outcome)

            def again():
                if not is_answered:
                    simulation.call(command, answered)
                    simulation.after(REQUEST_TIMEOUT_MS, again)

            again()

        go_on(None)


def replaced(partition, offset):
    """The partition at another offset."""
    return type(partition)(
        partition.topic, partition.topic_id, partition.partition, partition.generation, offset
    )
