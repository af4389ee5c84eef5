"""A group member whose coordinator is the test itself."""

from random import Random

import msgspec

from ottla._consumer_types import TopicPartition
from ottla._group_calls import GroupCallKind
from ottla._group_member import GroupMember
from ottla._transport import BrokerUnreachableError
from ottla_protocol.errors import OttlaError
from ottla_protocol.models_groups import AssignedPartitions, MembershipResponse

SESSION_MS = 9_000
REBALANCE_MS = 30_000
INTERVAL_MS = 3_000


def partitions(*numbers):
    return frozenset(TopicPartition("orders", number) for number in numbers)


class MemberUnderTest:
    """The machine with a clock that the test moves, and answers that it writes.

    Attributes:
        calls: those that are out, oldest first.
        changes: what the member told, in order, without what told nothing.
    """

    def __init__(self, member_type=GroupMember, **options):
        self.now_ms = 1_000
        self.calls = []
        self.changes = []
        self.member = member_type(
            "billing",
            **{
                "topics": ("orders",),
                "pattern": None,
                "instance_id": None,
                "assignor": None,
                "session_timeout_ms": SESSION_MS,
                "rebalance_timeout_ms": REBALANCE_MS,
                "retry_backoff_ms": 100,
                "random": Random(7),
                **options,
            },
        )

    def poll(self):
        """Everything that is to be sent now; it is out then."""
        new = []
        while (call := self.member.next_call(self.now_ms)) is not None:
            new.append(call)
        self.calls += new
        self._told(self.member.expire(self.now_ms))
        return new

    def poll_one(self, kind):
        (call,) = self.poll()
        assert call.kind is kind
        return call

    def wait(self, duration_ms):
        """Lets time pass, step by step as the machine asks for it; sends nothing."""
        self.now_ms += duration_ms
        self._told(self.member.expire(self.now_ms))

    def answer(self, call, generation, numbers, *, member_id=None, session_ms=SESSION_MS):
        """Answer a join or heartbeat; `numbers` None is an assignment that did not change."""
        self.calls.remove(call)
        assignment = None
        if numbers is not None:
            assignment = [AssignedPartitions("orders", sorted(numbers))] if numbers else []
        body = msgspec.json.encode(
            MembershipResponse(
                member_id or document(call).get("member_id") or call.path.split("/")[5],
                generation,
                assignment,
                session_ms,
                INTERVAL_MS,
            )
        )
        return self._told(self.member.on_answer(call, body, self.now_ms))

    def answered(self, call):
        """Answer a leave."""
        self.calls.remove(call)
        return self._told(self.member.on_answer(call, b"", self.now_ms))

    def fail(self, call, error=None):
        self.calls.remove(call)
        error = error or BrokerUnreachableError("no answer")
        assert isinstance(error, OttlaError)
        return self._told(self.member.on_failure(call, error, self.now_ms))

    def joined(self, *numbers, generation=1):
        """Joins; the first heartbeat is parked then."""
        self.answer(self.poll_one(GroupCallKind.JOIN), generation, numbers)
        return self.poll_one(GroupCallKind.HEARTBEAT)

    def may_own(self, number):
        return self.member.may_own(TopicPartition("orders", number), self.now_ms)

    def _told(self, change):
        if change:
            self.changes.append(change)
        return change


def document(call):
    return msgspec.json.decode(call.body) if call.body else {}


def told(call):
    """The partitions that a heartbeat says are owned."""
    return {number for each in document(call)["owned"] for number in each["partitions"]}
