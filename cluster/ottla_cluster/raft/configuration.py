"""Who votes: the quorum's configuration, as an entry of the Raft log names it.

A configuration counts from the moment at which its entry is in the log, committed or not, and no
longer when that entry is cut off again (Raft §6, dissertation §4.1). Two configurations that follow
one another differ by one voter at most, so any majority of the one shares a voter with any majority
of the other, and there is no moment at which two leaders of one term could be elected.

A voter is a node with a data directory (KIP-853): another directory of the same node has forgotten
what this one promised. So a node that lost its directory is another voter. It is removed and added
again, which is two changes; one entry that replaced it would be two changes at once. An unknown
directory, "", stands for any.

Learners get the log and do not vote (dissertation §4.2.1). The leader makes a learner a voter once
it has caught up; that the log names it carries this intention over to the next leader.
"""

from collections.abc import Iterable
from typing import Annotated, Final

import msgspec

MAX_VOTERS: Final = 7
"""More voters make every commit slower and protect little more."""

MAX_LEARNERS: Final = 7
"""Nodes that are on their way to become voters."""

UNKNOWN_DIRECTORY: Final = ""
"""The directory id of a voter that has not told one, or whose version has none."""

_NodeId = Annotated[int, msgspec.Meta(ge=1)]


class Voter(msgspec.Struct, frozen=True, array_like=True):
    """A node that votes or is going to, with one data directory."""

    node_id: _NodeId
    directory_id: str = UNKNOWN_DIRECTORY
    url: str = ""

    def accepts(self, directory_id: str) -> bool:
        """Whether what a node with this directory says counts as this voter's word."""
        return self.directory_id in (UNKNOWN_DIRECTORY, directory_id)


class Configuration(msgspec.Struct, frozen=True, array_like=True):
    """The voters, ascending by node id, and the learners that are to become voters, likewise."""

    voters: Annotated[tuple[Voter, ...], msgspec.Meta(max_length=MAX_VOTERS)] = ()
    learners: Annotated[tuple[Voter, ...], msgspec.Meta(max_length=MAX_LEARNERS)] = ()

    @property
    def voter_ids(self) -> tuple[int, ...]:
        """Node ids of the voters, ascending."""
        return tuple(voter.node_id for voter in self.voters)

    @property
    def members(self) -> tuple[Voter, ...]:
        """Voters, then learners."""
        return self.voters + self.learners

    def voter(self, node_id: int) -> Voter | None:
        """The voter of that node, if there is one."""
        return _named(self.voters, node_id)

    def learner(self, node_id: int) -> Voter | None:
        """The learner of that node, if there is one."""
        return _named(self.learners, node_id)

    def is_voter(self, node_id: int, directory_id: str) -> bool:
        """Whether that node votes with that directory."""
        voter = self.voter(node_id)
        return voter is not None and voter.accepts(directory_id)

    def with_voter(self, voter: Voter) -> "Configuration":
        """The same with this voter, in place of one or of a learner of the same node."""
        return Configuration(
            _sorted((*_without(self.voters, voter.node_id), voter)),
            _without(self.learners, voter.node_id),
        )

    def with_learner(self, learner: Voter) -> "Configuration":
        """The same with this learner; a voter of the same node is removed."""
        return Configuration(
            _without(self.voters, learner.node_id),
            _sorted((*_without(self.learners, learner.node_id), learner)),
        )

    def without(self, node_id: int) -> "Configuration":
        """The same without that node."""
        return Configuration(_without(self.voters, node_id), _without(self.learners, node_id))

    def with_directories(self, directories: "dict[int, str]") -> "Configuration":
        """The same, with the directories of those voters that had none yet."""
        return Configuration(
            tuple(
                Voter(voter.node_id, directories.get(voter.node_id, UNKNOWN_DIRECTORY), voter.url)
                if voter.directory_id == UNKNOWN_DIRECTORY
                else voter
                for voter in self.voters
            ),
            self.learners,
        )


def bootstrap_configuration(node_ids: "Iterable[int]") -> Configuration:
    """The configuration of an empty log: these voters, their directories unknown."""
    return Configuration(tuple(map(Voter, sorted(node_ids))))


def changed_voters(before: Configuration, after: Configuration) -> int:
    """How many voters are added, removed or exchanged from one configuration to the next.

    A directory that becomes known is no change, nor is another URL. A voter that comes back with
    another directory is two: one is removed and one is added.
    """
    count = 0
    for node_id in {*before.voter_ids, *after.voter_ids}:
        old, new = before.voter(node_id), after.voter(node_id)
        if old is None or new is None:
            count += 1
        elif not old.accepts(new.directory_id):
            count += 2
    return count


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Configuration] = msgspec.msgpack.Decoder(Configuration)


def encode_configuration(configuration: Configuration) -> bytes:
    """The payload of a configuration entry; never empty."""
    return _encoder.encode(configuration)


def decode_configuration(payload: bytes) -> Configuration:
    """The configuration of an entry.

    Raises:
        ValueError: the payload is none, or names no voter or one twice.
    """
    try:
        configuration = _decoder.decode(payload)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a configuration of voters: {error}") from error
    members = [member.node_id for member in configuration.members]
    if not configuration.voters or len(set(members)) != len(members):
        raise ValueError(f"a configuration names no voter, or one twice: {members}")
    return configuration


class ConfigurationHistory:
    """The configurations along one log, the one before its first entry included.

    Args:
        bootstrap: what counts while the log names none.
        index: the last entry that a snapshot covers.
        snapshot: the configuration that came with that snapshot, if it named one.
    """

    __slots__ = ("_base", "_bootstrap", "_entries", "current")

    def __init__(
        self, bootstrap: Configuration, *, index: int = 0, snapshot: Configuration | None = None
    ) -> None:
        self._bootstrap = bootstrap
        # The configuration at the snapshot, with the index at which it is known to count.
        self._base: tuple[int, Configuration | None] = (index, snapshot)
        # (index, configuration) of every configuration entry behind it, ascending.
        self._entries: list[tuple[int, Configuration]] = []
        self.current: Configuration
        """What counts now: the last configuration in the log, committed or not."""
        self._note_current()

    def _note_current(self) -> None:
        # Every message asks for it several times, and it hardly ever changes.
        self.current = self._entries[-1][1] if self._entries else self._base[1] or self._bootstrap

    @property
    def index(self) -> int:
        """Where that stands; 0 while the log names none."""
        if self._entries:
            return self._entries[-1][0]
        return 0 if self._base[1] is None else self._base[0]

    def at_or_before(self, index: int) -> Configuration | None:
        """What counted right after `index`; None for the bootstrap."""
        for position, configuration in reversed(self._entries):
            if position <= index:
                return configuration
        return self._base[1]

    def appended(self, index: int, payload: bytes) -> None:
        """A configuration entry is in the log; one that the snapshot covers changes nothing.

        Raises:
            ValueError: it is none.
        """
        configuration = decode_configuration(payload)
        if index > self._base[0]:
            assert index > self.index, "configurations are appended in order"
            self._entries.append((index, configuration))
            self._note_current()

    def truncated(self, index: int) -> None:
        """The entries from `index` on are gone: what they said counts no longer."""
        while self._entries and self._entries[-1][0] >= index:
            self._entries.pop()
        self._note_current()

    def compacted(self, index: int) -> None:
        """A snapshot covers all up to `index`."""
        self._base = (index, self.at_or_before(index))
        self._entries = [entry for entry in self._entries if entry[0] > index]
        self._note_current()

    def installed(self, index: int, snapshot: Configuration | None) -> None:
        """A leader's snapshot is in place of the whole log; one of an older version names none."""
        self._base = (index, self._base[1] if snapshot is None else snapshot)
        self._entries = []
        self._note_current()


def _named(members: tuple[Voter, ...], node_id: int) -> Voter | None:
    # A loop: every message asks several times, and a generator costs more than the look.
    for member in members:
        if member.node_id == node_id:
            return member
    return None


def _without(members: tuple[Voter, ...], node_id: int) -> tuple[Voter, ...]:
    return tuple(member for member in members if member.node_id != node_id)


def _sorted(members: tuple[Voter, ...]) -> tuple[Voter, ...]:
    return tuple(sorted(members, key=lambda member: member.node_id))
