"""A leader's snapshot on its way to this voter, part by part (Raft §7).

Parts gather in memory, in order; one that does not follow what is there changes nothing, for the
leader asks at every heartbeat how far the follower is and goes on from there. Nothing is promised
before the whole has been put in place of the log: the answer that says so leaves, like every
answer, only when it is on disk.
"""

from typing import TYPE_CHECKING

from ottla_cluster.raft.messages import (
    AppendResponse,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    Snapshot,
)
from ottla_cluster.raft.reads import answered_round

if TYPE_CHECKING:
    from ottla_cluster.raft.config import RaftConfig
    from ottla_cluster.raft.log import RaftLog


class SnapshotReceiver:
    """What a follower has of its leader's snapshot.

    Args:
        config: the node's settings.
        log: the node's log.
    """

    __slots__ = ("_config", "_gathered", "_log", "_source")

    def __init__(self, config: "RaftConfig", log: "RaftLog") -> None:
        self._config = config
        self._log = log
        # Which snapshot is being gathered: (term and id of the leader, index and term of the
        # snapshot, its bytes). Within one leadership that names one value.
        self._source: tuple[int, int, int, int, int] | None = None
        self._gathered = bytearray()

    def receive(self, request: InstallSnapshotRequest) -> AppendResponse | InstallSnapshotResponse:
        """Take a part from the leader of the present term; the answer to send.

        A snapshot that reaches no further than what is committed here changes nothing. One whose
        last entry the log holds only tells that it is committed; entries behind it stay.
        """
        log = self._log
        if request.index <= log.commit_index:
            return self._agreed(request, log.commit_index)
        if log.matches(request.index, request.snapshot_term):
            self._forget()
            log.commit_to(request.index)
            return self._agreed(request, request.index)
        data = self._gather(request)
        if data is None:
            return self._lacking(request)
        self._forget()
        log.install(Snapshot(request.index, request.snapshot_term, data, request.configuration))
        return self._agreed(request, request.index)

    def refusal(self, request: InstallSnapshotRequest, term: int) -> InstallSnapshotResponse:
        """The sender's leadership is over: `term` is a newer one."""
        return InstallSnapshotResponse(
            term=term,
            sender=self._config.node_id,
            receiver=request.sender,
            index=request.index,
            next_offset=0,
            read_sequence=answered_round(request, term),
        )

    def _gather(self, request: InstallSnapshotRequest) -> bytes | None:
        """The whole snapshot, if this part completes it."""
        source = _source_of(request)
        if source != self._source:
            if self._source is not None and source < self._source:
                return None  # A leader never returns to an older snapshot: this part is late.
            self._source = source
            self._gathered.clear()
        if request.offset == len(self._gathered):
            self._gathered += request.chunk
        return bytes(self._gathered) if len(self._gathered) == request.size_bytes else None

    def _forget(self) -> None:
        self._source = None
        self._gathered = bytearray()

    def _agreed(self, request: InstallSnapshotRequest, index: int) -> AppendResponse:
        return AppendResponse(
            term=request.term,
            sender=self._config.node_id,
            receiver=request.sender,
            accepted=True,
            index=index,
            hint_index=0,
            hint_term=0,
            read_sequence=request.read_sequence,
        )

    def _lacking(self, request: InstallSnapshotRequest) -> InstallSnapshotResponse:
        is_gathered = _source_of(request) == self._source
        return InstallSnapshotResponse(
            term=request.term,
            sender=self._config.node_id,
            receiver=request.sender,
            index=request.index,
            next_offset=len(self._gathered) if is_gathered else 0,
            read_sequence=request.read_sequence,
        )


def _source_of(request: InstallSnapshotRequest) -> tuple[int, int, int, int, int]:
    return (
        request.term,
        request.sender,
        request.index,
        request.snapshot_term,
        request.size_bytes,
    )
