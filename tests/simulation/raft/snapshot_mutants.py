"""Planted bugs of snapshots and of the compacted log; see `mutants`."""

from ottla_cluster.raft import AppendResponse, RaftNode, Snapshot
from ottla_cluster.raft import node as node_module
from ottla_cluster.raft import snapshots as snapshots_module
from ottla_cluster.raft.log import RaftLog
from ottla_cluster.raft.progress import Progress
from ottla_cluster.raft.snapshots import SnapshotReceiver
from tests.simulation.raft.mutants import SendsBeforePersisting


class ForgetsTheSnapshotsTerm(RaftLog):
    """Where the log was cut, its term is not remembered."""

    def _cut(self, index, term):
        super()._cut(index, 0)


class AcknowledgesSnapshotsEarly(SendsBeforePersisting):
    """The answer that the snapshot is here leaves before it is on disk."""

    _is_installing = False

    def sends_early(self, message):
        return self._is_installing and isinstance(message, AppendResponse)

    def carry_out(self, ready):
        self._is_installing = ready.compaction is not None
        super().carry_out(ready)


class InstallsOverEverything(RaftLog):
    """Whatever the log holds, it begins anew with the snapshot."""

    def install(self, snapshot):
        self._truncate(max(snapshot.index + 1, self.first_index))
        self.snapshot = snapshot
        self._commit_index = snapshot.index
        self._applied_index = min(self._applied_index, snapshot.index - 1)
        self._cut(snapshot.index, snapshot.term)


class TakesOlderSnapshots(SnapshotReceiver):
    """A snapshot replaces the state even when that is further."""

    def receive(self, request):
        if request.index >= self._log.commit_index:
            return super().receive(request)
        return self._install(request)

    def _install(self, request):
        data = self._gather(request)
        if data is None:
            return self._lacking(request)
        InstallsOverEverything.install(
            self._log, Snapshot(request.index, request.snapshot_term, data)
        )
        return self._agreed(request, request.index)


class DropsWhatIsBehind(TakesOlderSnapshots):
    """Entries behind the snapshot go, though the log holds the snapshot's last entry."""

    def receive(self, request):
        if request.index <= self._log.commit_index:
            return super().receive(request)
        return self._install(request)


class CompactsAboveApplied(RaftNode):
    """The snapshot passes for one of the log's last entry."""

    def compact(self, index, data, now_ms):
        self._log._applied_index = self._log.last_index
        return super().compact(self._log.last_index, data, now_ms)


class TakesPartsAsTheyCome(SnapshotReceiver):
    """A part is appended wherever it belongs."""

    def _gather(self, request):
        request = type(request)(
            **{
                name: getattr(request, name)
                for name in request.__struct_fields__
                if name != "offset"
            },
            offset=len(self._gathered),
        )
        return super()._gather(request)


def any_source(request):
    """Parts of all snapshots are one snapshot's."""
    return (0, 0, 0, 0, 0)


def never_resends(self, newest):
    """A lost part stays lost."""


def log_with(log):
    return {"log": log}


def receiver_with(receiver):
    return {"patches": ((node_module, "SnapshotReceiver", receiver),)}


SNAPSHOT_MUTANTS = {
    "forgets the snapshot's term": log_with(ForgetsTheSnapshotsTerm),
    "acknowledges a snapshot before persisting": {"host": AcknowledgesSnapshotsEarly},
    "takes an older snapshot": receiver_with(TakesOlderSnapshots),
    "drops entries behind the snapshot": receiver_with(DropsWhatIsBehind),
    "compacts above the applied index": {"node": CompactsAboveApplied},
    "takes parts as they come": receiver_with(TakesPartsAsTheyCome),
    "mixes the parts of two snapshots": {
        "patches": ((snapshots_module, "_source_of", any_source),)
    },
    "resends no part": {"patches": ((Progress, "heartbeat_passed", never_resends),)},
}
