"""How ISR proposals of many partitions reach the controller, and its verdicts the partitions."""

import asyncio
from types import SimpleNamespace

import pytest

from ottla_broker.drivers.isr_proposals import IsrProposals
from ottla_cluster.controller.commands import (
    AlterPartition,
    AlterPartitionResponse,
    AlterPartitions,
    AlterPartitionsResponse,
    IsrChangeResult,
    PartitionState,
)
from ottla_cluster.controller.limits import MAX_ISR_CHANGES
from ottla_cluster.replication.leader import IsrMember, IsrProposal
from ottla_protocol.errors import (
    ControllerNotAvailableError,
    InvalidUpdateVersionError,
    NotControllerError,
)
from tests.unit.awaiting import until

TOPIC_ID = "a" * 32


class Leader:
    """A partition that remembers what it was told."""

    def __init__(self, number):
        self.name = f"orders-{number}"
        self.state = SimpleNamespace(topic_id=TOPIC_ID, partition=number, isr=(1,))
        self.verdicts = []

    def proposal_accepted(self, proposal, partition_epoch):
        self.verdicts.append(("accepted", proposal, partition_epoch))

    def proposal_failed(self, proposal, *, refused):
        self.verdicts.append(("failed", proposal, refused))


def proposal(partition_epoch=7):
    return IsrProposal((IsrMember(1, 10), IsrMember(2, 20)), 3, partition_epoch)


def state_of(change):
    isr = tuple(member.node_id for member in change.new_isr)
    return PartitionState(change.partition, isr, isr, 1, 3, change.partition_epoch + 1)


class Controller:
    """Answers when it may, with what `refusals` has for a partition."""

    def __init__(self):
        self.commands = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.refusals = {}
        self.error = None

    async def execute(self, command, *, timeout_ms):
        self.commands.append(command)
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        if isinstance(command, AlterPartition):
            return AlterPartitionResponse(command.topic_id, state_of(command))
        return AlterPartitionsResponse(tuple(self._decide(change) for change in command.changes))

    def _decide(self, change):
        refusal = self.refusals.get(change.partition)
        if refusal is not None:
            return IsrChangeResult(change.topic_id, change.partition, error=refusal.problem())
        return IsrChangeResult(change.topic_id, change.partition, state_of(change))

    def numbers(self):
        return [[change.partition for change in command.changes] for command in self.commands]


@pytest.fixture
def controller():
    return Controller()


@pytest.fixture
async def make_proposals(controller):
    made = []

    def make(*, batches=True):
        proposals = IsrProposals(
            node_id=1,
            controller=controller,
            broker_epoch=lambda: 10,
            in_flight_max=4,
            batches=lambda: batches,
        )
        made.append(proposals)
        return proposals

    yield make
    for proposals in made:
        await proposals.stop()


async def test_what_is_proposed_at_the_same_time_is_one_command(controller, make_proposals):
    proposals = make_proposals()
    leaders = [Leader(number) for number in range(5)]
    for leader in leaders:
        proposals.propose(leader, proposal())
    await until(lambda: all(leader.verdicts for leader in leaders))
    [command] = controller.commands
    assert isinstance(command, AlterPartitions)
    assert [leader.verdicts for leader in leaders] == [[("accepted", proposal(), 8)]] * 5


async def test_what_is_proposed_meanwhile_is_the_next_command(controller, make_proposals):
    proposals = make_proposals()
    controller.may_answer.clear()
    leaders = [Leader(number) for number in range(4)]
    proposals.propose(leaders[0], proposal())
    await until(lambda: controller.commands)
    for leader in leaders[1:]:
        proposals.propose(leader, proposal())
    controller.may_answer.set()
    await until(lambda: all(leader.verdicts for leader in leaders))
    assert controller.numbers() == [[0], [1, 2, 3]]


async def test_each_partition_hears_its_own_verdict(controller, make_proposals):
    proposals = make_proposals()
    controller.refusals = {
        1: InvalidUpdateVersionError("newer"),
        2: NotControllerError("another one is active"),
    }
    leaders = [Leader(number) for number in range(3)]
    for leader in leaders:
        proposals.propose(leader, proposal())
    await until(lambda: all(leader.verdicts for leader in leaders))
    assert [leader.verdicts for leader in leaders] == [
        [("accepted", proposal(), 8)],
        [("failed", proposal(), True)],
        # Not the active controller's own verdict: it may yet be applied.
        [("failed", proposal(), False)],
    ]


async def test_when_the_command_fails_nobody_knows_of_any(controller, make_proposals):
    proposals = make_proposals()
    controller.error = ControllerNotAvailableError("no controller")
    leaders = [Leader(number) for number in range(2)]
    for leader in leaders:
        proposals.propose(leader, proposal())
    await until(lambda: all(leader.verdicts for leader in leaders))
    assert [leader.verdicts for leader in leaders] == [[("failed", proposal(), False)]] * 2
    controller.error = None
    proposals.propose(leaders[0], proposal(8))
    await until(lambda: len(leaders[0].verdicts) == 2)
    assert leaders[0].verdicts[1] == ("accepted", proposal(8), 9)


async def test_a_command_has_a_limit(controller, make_proposals):
    proposals = make_proposals()
    leaders = [Leader(number) for number in range(MAX_ISR_CHANGES + 3)]
    for leader in leaders:
        proposals.propose(leader, proposal())
    await until(lambda: all(leader.verdicts for leader in leaders))
    assert [len(numbers) for numbers in controller.numbers()] == [MAX_ISR_CHANGES, 3]


async def test_of_two_proposals_of_a_partition_the_newer_goes(controller, make_proposals):
    """The metadata has overtaken the other one, which waited for its command."""
    proposals = make_proposals()
    controller.may_answer.clear()
    first, second = Leader(0), Leader(1)
    proposals.propose(first, proposal())
    await until(lambda: controller.commands)
    proposals.propose(second, proposal(7))
    proposals.propose(second, proposal(9))
    controller.may_answer.set()
    await until(lambda: second.verdicts)
    assert controller.numbers() == [[0], [1]]
    assert second.verdicts == [("accepted", proposal(9), 10)]


async def test_an_older_controller_gets_them_one_by_one(controller, make_proposals):
    proposals = make_proposals(batches=False)
    leaders = [Leader(number) for number in range(3)]
    for leader in leaders:
        proposals.propose(leader, proposal())
    await until(lambda: all(leader.verdicts for leader in leaders))
    assert [type(command) for command in controller.commands] == [AlterPartition] * 3
    assert [leader.verdicts for leader in leaders] == [[("accepted", proposal(), 8)]] * 3
