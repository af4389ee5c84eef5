"""One consumer group of the fake cluster: members, assignment and committed offsets, in memory.

What a member can notice is as at a coordinator: a partition goes to its next owner only after the
one before has given it up, left or fallen silent; every new partition comes in a new generation;
commits are held to the generation in which a partition was assigned.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ottla._consumer_types import TopicPartition
from ottla_protocol.counted_nouns import counted
from ottla_protocol.errors import (
    FencedInstanceIdError,
    FencedMemberEpochError,
    InvalidPatternError,
    InvalidRequestError,
    InvalidSessionTimeoutError,
    NonEmptyGroupError,
    UnknownMemberIdError,
    UnsupportedAssignorError,
)
from ottla_protocol.models_groups import CommittedOffset, JoinGroupRequest

DEFAULT_ASSIGNOR: Final = "sticky"
DEFAULT_SESSION_TIMEOUT_MS: Final = 10_000
MIN_SESSION_TIMEOUT_MS: Final = 1_000
MAX_SESSION_TIMEOUT_MS: Final = 1_800_000
DEFAULT_REBALANCE_TIMEOUT_MS: Final = 60_000

Subscriptions = Mapping[str, list[str]]
Target = dict[str, set[TopicPartition]]


@dataclass(slots=True)
class FakeMember:
    """One member.

    Attributes:
        generation: of its assignment.
        owned: what it may read, with the generation in which it was given.
        revoking: what it was told to give up: (generation, since when).
        heard_ms: when it was last heard of.
    """

    member_id: str
    instance_id: str | None
    topics: list[str] | None
    pattern: str | None
    session_timeout_ms: int
    rebalance_timeout_ms: int
    heard_ms: int
    generation: int = 0
    owned: dict[TopicPartition, int] = field(default_factory=dict)
    revoking: dict[TopicPartition, tuple[int, int]] = field(default_factory=dict)
    former_ids: tuple[str, ...] = ()

    def is_overdue(self, now_ms: int) -> bool:
        """Whether it was silent, or held on to something, for too long."""
        if now_ms - self.heard_ms >= self.session_timeout_ms:
            return True
        since = [since_ms for _, since_ms in self.revoking.values()]
        return bool(since) and now_ms - min(since) >= self.rebalance_timeout_ms


class FakeGroup:
    """The members of one group and what they committed.

    Attributes:
        offsets: the committed offsets.
        members: by member id.
    """

    def __init__(self, group_id: str, generation: int) -> None:
        self.group_id = group_id
        self.generation = generation
        self.assignor = ""
        self.members: dict[str, FakeMember] = {}
        self.offsets: dict[TopicPartition, CommittedOffset] = {}
        self._target: Target = {}
        self._seen: object = None

    @property
    def is_settled(self) -> bool:
        """Whether every member has just what it is to have."""
        return all(
            not member.revoking and member.owned.keys() == self._target.get(name, set())
            for name, member in self.members.items()
        )

    # --- members --------------------------------------------------------------------------------

    def look(self, counts: Mapping[str, int], now_ms: int) -> None:
        """Expire who is overdue, and see which topics there are: partitions by topic."""
        for member in list(self.members.values()):
            if member.is_overdue(now_ms):
                del self.members[member.member_id]
        subscriptions = {name: _subscribed(each, counts) for name, each in self.members.items()}
        topics = {topic for names in subscriptions.values() for topic in names}
        seen = (subscriptions, {topic: counts[topic] for topic in topics}, self.assignor)
        if seen != self._seen:
            self._seen = seen
            self.generation += 1
            assign = ASSIGNORS[self.assignor or DEFAULT_ASSIGNOR]
            self._target = assign(subscriptions, counts, self._target)

    def join(
        self, request: JoinGroupRequest, new_id: str, counts: Mapping[str, int], now_ms: int
    ) -> FakeMember:
        """Make a member, or change one that joins again.

        Raises:
            InvalidRequestError: a field breaks its rule.
            FencedInstanceIdError: another process has joined under the instance id.
        """
        self.look(counts, now_ms)
        self._check(request)
        member_id = request.member_id or new_id
        self._refuse_replaced(member_id)
        member = FakeMember(
            member_id,
            request.instance_id,
            request.topics,
            request.pattern,
            request.session_timeout_ms or DEFAULT_SESSION_TIMEOUT_MS,
            request.rebalance_timeout_ms or DEFAULT_REBALANCE_TIMEOUT_MS,
            now_ms,
            self.generation + 1,
        )
        former = self.members.get(member_id) or self._of_instance(request.instance_id)
        if former is not None:
            self._succeed(former, member)
        self.members[member_id] = member
        self.assignor = _canonical(request.assignor or self.assignor or DEFAULT_ASSIGNOR)
        self.look(counts, now_ms)
        self._step(member, None, now_ms)
        return member

    def heartbeat(
        self,
        member_id: str,
        generation: int,
        told: frozenset[TopicPartition] | None,
        counts: Mapping[str, int],
        now_ms: int,
    ) -> FakeMember:
        """Take what a member holds, and give it what is free for it.

        Raises:
            UnknownMemberIdError: it is no member, or no longer.
            FencedMemberEpochError: its generation is one that it was never given.
        """
        self.look(counts, now_ms)
        member = self._member(member_id)
        if generation > member.generation:
            raise FencedMemberEpochError(
                f"the member's generation is {member.generation}, not {generation}"
            )
        member.heard_ms = now_ms
        self._step(member, told if generation == member.generation else None, now_ms)
        return member

    def leave(self, member_id: str, counts: Mapping[str, int], now_ms: int) -> None:
        """End a membership.

        Raises:
            UnknownMemberIdError: it is no member, or no longer.
        """
        self.look(counts, now_ms)
        del self.members[self._member(member_id).member_id]
        self.look(counts, now_ms)

    def check_commit(
        self,
        member_id: str | None,
        generation: int | None,
        partitions: Iterable[TopicPartition],
        now_ms: int,
    ) -> None:
        """Refuse a commit of partitions that its sender does not hold.

        Raises:
            UnknownMemberIdError: it is no member, or no longer.
            FencedMemberEpochError: it does not hold one of them, or not in its generation.
            NonEmptyGroupError: no member is named, and the group has some.
        """
        if member_id is None or generation is None:
            if self.members:
                raise NonEmptyGroupError(
                    f"the group {self.group_id!r} has {counted(len(self.members), 'member')}, and "
                    "only they commit its offsets: member_id and generation are missing",
                    field="member_id",
                )
            return
        member = self._member(member_id)
        member.heard_ms = now_ms
        for partition in partitions:
            since = member.owned.get(partition)
            if since is None and partition in member.revoking:
                since = member.revoking[partition][0]
            if since is None or not since <= generation <= member.generation:
                raise FencedMemberEpochError(
                    f"the member does not hold {partition.topic}-{partition.partition} in "
                    f"generation {generation}"
                )

    # --- the rules ------------------------------------------------------------------------------

    def _check(self, request: JoinGroupRequest) -> None:
        if (request.topics is None) == (request.pattern is None):
            raise InvalidRequestError(
                "topics must be a list of names, or pattern a pattern, and not both", field="topics"
            )
        try:
            re.compile(request.pattern or "")
        except re.error as error:
            raise InvalidPatternError(f"pattern {request.pattern!r}: {error}") from error
        session_ms = request.session_timeout_ms or DEFAULT_SESSION_TIMEOUT_MS
        if not MIN_SESSION_TIMEOUT_MS <= session_ms <= MAX_SESSION_TIMEOUT_MS:
            raise InvalidSessionTimeoutError(
                f"session_timeout_ms must be {MIN_SESSION_TIMEOUT_MS} to "
                f"{MAX_SESSION_TIMEOUT_MS}; it is {session_ms}"
            )
        wanted = _canonical(request.assignor or self.assignor or DEFAULT_ASSIGNOR)
        others = self.members.keys() - {request.member_id}
        if others and wanted != self.assignor:
            raise UnsupportedAssignorError(
                f"assignor of the group is {self.assignor!r}; {wanted!r} needs a group without "
                "other members"
            )

    def _succeed(self, former: FakeMember, member: FakeMember) -> None:
        """The same member again, or the next process of a static one."""
        del self.members[former.member_id]
        self._target[member.member_id] = self._target.pop(former.member_id, set())
        if former.member_id == member.member_id:
            member.generation = former.generation
            member.owned, member.revoking = former.owned, former.revoking
            member.former_ids = former.former_ids
        else:
            self.generation += 1
            member.generation = self.generation
            member.owned = dict.fromkeys(former.owned, self.generation)
            member.former_ids = (former.member_id, *former.former_ids)

    def _of_instance(self, instance_id: str | None) -> FakeMember | None:
        if instance_id is None:
            return None
        return next((m for m in self.members.values() if m.instance_id == instance_id), None)

    def _member(self, member_id: str) -> FakeMember:
        self._refuse_replaced(member_id)
        member = self.members.get(member_id)
        if member is None:
            raise UnknownMemberIdError(f"the group {self.group_id!r} has no member {member_id!r}")
        return member

    def _refuse_replaced(self, member_id: str) -> None:
        for member in self.members.values():
            if member_id in member.former_ids:
                raise FencedInstanceIdError(
                    f"another process has joined as {member.instance_id!r}: this one must stop"
                )

    def _step(
        self, member: FakeMember, told: frozenset[TopicPartition] | None, now_ms: int
    ) -> None:
        """Bring one member closer to its target."""
        target = self._target.get(member.member_id, set())
        if told is not None:
            member.owned = {key: since for key, since in member.owned.items() if key in told}
            member.revoking = {key: held for key, held in member.revoking.items() if key in told}
        for key in [key for key in member.owned if key not in target]:
            member.revoking[key] = member.owned.pop(key), now_ms
        taken = {key for each in self.members.values() for key in (*each.owned, *each.revoking)}
        given = sorted(target - taken)
        if given:
            self.generation += 1
            member.generation = self.generation
            member.owned.update(dict.fromkeys(given, self.generation))


def _subscribed(member: FakeMember, counts: Mapping[str, int]) -> list[str]:
    if member.pattern is not None:
        return [name for name in sorted(counts) if re.fullmatch(member.pattern, name)]
    return [name for name in sorted(set(member.topics or ())) if name in counts]


# --- assignors ------------------------------------------------------------------------------


def _range(subscriptions: Subscriptions, counts: Mapping[str, int], _before: Target) -> Target:
    """Runs of each topic's partitions."""
    target: Target = {name: set() for name in subscriptions}
    for topic, readers in _readers(subscriptions).items():
        short, longer = divmod(counts[topic], len(readers))
        start = 0
        for number, name in enumerate(readers):
            end = start + short + (number < longer)
            target[name].update(TopicPartition(topic, each) for each in range(start, end))
            start = end
    return target


def _round_robin(
    subscriptions: Subscriptions, counts: Mapping[str, int], _before: Target
) -> Target:
    """All partitions in turn."""
    target: Target = {name: set() for name in subscriptions}
    in_turn = sorted(subscriptions)
    turn = 0
    for topic, readers in _readers(subscriptions).items():
        for partition in range(counts[topic]):
            while in_turn[turn % len(in_turn)] not in readers:
                turn += 1
            target[in_turn[turn % len(in_turn)]].add(TopicPartition(topic, partition))
            turn += 1
    return target


def _sticky(subscriptions: Subscriptions, counts: Mapping[str, int], before: Target) -> Target:
    """As balanced as can be, and what can stay stays."""
    target: Target = {name: set() for name in subscriptions}
    readers = _readers(subscriptions)
    owners = {key: name for name, keys in before.items() for key in keys}
    every = [
        TopicPartition(topic, each) for topic in sorted(readers) for each in range(counts[topic])
    ]
    for key in every:
        if owners.get(key) in readers[key.topic]:
            target[owners[key]].add(key)
    for key in every:
        if owners.get(key) not in readers[key.topic]:
            target[_least(readers[key.topic], target)].add(key)
    moved = True
    while moved:
        moved = False
        for name in sorted(target, key=lambda each: -len(target[each])):
            for key in sorted(target[name]):
                other = _least(readers[key.topic], target)
                if len(target[name]) - len(target[other]) > 1:
                    target[name].remove(key)
                    target[other].add(key)
                    moved = True
    return target


def _least(readers: list[str], target: Target) -> str:
    return min(readers, key=lambda name: (len(target[name]), name))


def _readers(subscriptions: Subscriptions) -> dict[str, list[str]]:
    """The members that read each topic."""
    readers: dict[str, list[str]] = {}
    for name in sorted(subscriptions):
        for topic in subscriptions[name]:
            readers.setdefault(topic, []).append(name)
    return dict(sorted(readers.items()))


ASSIGNORS: Final[Mapping[str, Callable[[Subscriptions, Mapping[str, int], Target], Target]]] = {
    "range": _range,
    "round_robin": _round_robin,
    "sticky": _sticky,
}


def _canonical(assignor: str) -> str:
    name = assignor.replace("-", "_").lower().replace("roundrobin", "round_robin")
    if name not in ASSIGNORS:
        raise UnsupportedAssignorError(f"assignor must be one of {', '.join(ASSIGNORS)}")
    return name
