"""What the Raft node refuses and how.

    NotLeaderError             ask the leader; nothing happened
    RaftMessageRefusedError    the message is not for this node or is malformed; nothing happened
    RaftInvariantError         a rule of Raft is broken: the process must stop
    RaftStateCorruptError      the persisted state contradicts itself: the process must not start
    RaftDirectoryRolledBackError   the data directory is an older copy: set the Raft state aside

Limits answer with `OverloadedError` and `MessageTooLargeError` of the common tree.
"""

from ottla_protocol.errors import (
    InternalError,
    InvalidRequestError,
    NotControllerError,
    Outcome,
    StorageError,
)


class NotLeaderError(NotControllerError):
    """This node does not lead; nothing was appended.

    Attributes:
        leader_id: the leader that this node follows, or None while it knows none.
    """

    def __init__(self, leader_id: int | None) -> None:
        known = "no leader is known" if leader_id is None else f"node {leader_id} leads"
        super().__init__(
            f"this node does not lead the metadata quorum: {known}",
            outcome=Outcome.NOT_APPLIED,
            leader_id=leader_id,
        )
        self.leader_id = leader_id


class RaftMessageRefusedError(InvalidRequestError):
    """A message that no correct peer of this quorum sends; refused before it changed anything."""


class RaftInvariantError(InternalError):
    """A peer's message or this node's own state breaks a safety rule of Raft: stop the process."""


class RaftStateCorruptError(StorageError):
    """The recovered hard state and entries cannot come from one correct node."""


class RaftDirectoryRolledBackError(InternalError):
    """The data directory was put back to an older copy, and has forgotten what this voter said.

    The process must say nothing more from this Raft state. It sets it aside and comes back as a new
    directory.
    """
