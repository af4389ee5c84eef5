"""What a message must satisfy before a node handles it, and what its own driver hands in.

A message that fails here comes from outside the quorum or from a broken peer. It is refused before
it changes anything, so the driver may answer the peer with the error and go on.
"""

from typing import TYPE_CHECKING

from ottla_cluster.raft.configuration import decode_configuration
from ottla_cluster.raft.errors import RaftMessageRefusedError
from ottla_cluster.raft.messages import (
    AppendRequest,
    Entry,
    EntryKind,
    InstallSnapshotRequest,
    Message,
)
from ottla_protocol.errors import MessageTooLargeError, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ottla_cluster.raft.config import RaftConfig


def check_message(message: Message, config: "RaftConfig") -> None:
    """Check that a message is for this node, from another one, and well-formed.

    The sender may be nobody that this node's configuration names: a voter that this node has not
    heard of yet may lead it or need its vote (dissertation §4.2.2).

    Raises:
        RaftMessageRefusedError: it is not.
    """
    if message.receiver != config.node_id or message.sender == config.node_id:
        raise RaftMessageRefusedError(
            f"a message from node {message.sender} to node {message.receiver} reached node "
            f"{config.node_id}"
        )
    if isinstance(message, AppendRequest):
        _check_entries(message)
    elif isinstance(message, InstallSnapshotRequest):
        _check_part(message, config.max_snapshot_bytes)


def check_payloads(payloads: "Sequence[bytes]", config: "RaftConfig") -> None:
    """Check that a proposal's payloads may become entries.

    Raises:
        MessageTooLargeError: one is too long.
    """
    assert payloads, "a proposal has at least one payload"
    assert all(payloads), "an empty payload is the election's no-op"
    longest_bytes = max(map(len, payloads))
    if longest_bytes > config.max_entry_bytes:
        raise MessageTooLargeError(
            f"a metadata entry has {longest_bytes} bytes, and max_entry_bytes is "
            f"{config.max_entry_bytes}",
            outcome=Outcome.NOT_APPLIED,
        )


def check_snapshot(data: bytes, config: "RaftConfig") -> None:
    """Check that the other voters would take this snapshot.

    Raises:
        MessageTooLargeError: it is too long.
    """
    assert data, "a snapshot has at least one byte"
    if len(data) > config.max_snapshot_bytes:
        raise MessageTooLargeError(
            f"a metadata snapshot has {len(data)} bytes, and max_snapshot_bytes is "
            f"{config.max_snapshot_bytes}",
            outcome=Outcome.NOT_APPLIED,
        )


def _check_entries(request: AppendRequest) -> None:
    """Entries follow one another without a gap, and no term falls or is ahead of the sender's."""
    previous_term = request.prev_term
    for index, entry in enumerate(request.entries, request.prev_index + 1):
        if entry.index != index or not previous_term <= entry.term <= request.term:
            raise RaftMessageRefusedError(
                f"entry ({entry.index}, term {entry.term}) cannot follow ({index - 1}, term "
                f"{previous_term}) in an append of term {request.term}"
            )
        previous_term = entry.term
        if entry.kind is EntryKind.CONFIGURATION:
            _check_configuration(entry)


def _check_configuration(entry: Entry) -> None:
    try:
        decode_configuration(entry.payload)
    except ValueError as error:
        raise RaftMessageRefusedError(f"entry {entry.index}: {error}") from error


def _check_part(request: InstallSnapshotRequest, max_bytes: int) -> None:
    """The part lies within the snapshot, which covers something and is not too long."""
    if not 0 < request.size_bytes <= max_bytes:
        raise RaftMessageRefusedError(
            f"a snapshot has {request.size_bytes} bytes; it must have 1 to {max_bytes}"
        )
    if request.offset + len(request.chunk) > request.size_bytes:
        raise RaftMessageRefusedError(
            f"a part of a snapshot of {request.size_bytes} bytes cannot be "
            f"{request.offset}..{request.offset + len(request.chunk)}"
        )
    if request.index < 1 or not 1 <= request.snapshot_term <= request.term:
        raise RaftMessageRefusedError(
            f"a snapshot of the entry ({request.index}, term {request.snapshot_term}) cannot be "
            f"sent in term {request.term}"
        )
