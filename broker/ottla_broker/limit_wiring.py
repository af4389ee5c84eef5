"""Which limits a broker tells of, by name."""

from ottla_broker.drivers.peer_client import PeerClient, Purpose
from ottla_broker.drivers.raft_driver import RaftDriver
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_broker.http.context import BrokerContext
from ottla_broker.http.inflight import InflightBytes
from ottla_broker.http.listener import Listener
from ottla_broker.limit_gauges import LimitGauges, LimitUse
from ottla_broker.storage.handles import HandlePool


def watch_limits(
    limits: LimitGauges,
    *,
    context: BrokerContext,
    listener: Listener,
    handles: HandlePool,
    peers: PeerClient,
    raft: RaftDriver,
    replicas: ReplicaManager,
) -> None:
    """Have `limits` tell of everything that clients or peers can fill."""
    purgatory = context.purgatory
    limits.watch("connections", lambda: LimitUse(listener.connections, listener.connections_max))
    limits.watch("open_segments", lambda: LimitUse(len(handles), handles.limit))
    limits.watch("parked_requests", lambda: LimitUse(purgatory.parked, purgatory.limit))
    limits.watch("transactional_batches", lambda: LimitUse(*context.produce.verification_places))
    limits.watch("followers", lambda: LimitUse(*context.following.places))
    limits.watch("fetch_sessions", lambda: LimitUse(*context.replication.session_places))
    limits.watch("pending_append_bytes", lambda: _fullest_log(replicas))
    limits.watch("raft_inputs", lambda: LimitUse(*raft.input_places))
    limits.watch("raft_outbox_messages", lambda: LimitUse(*raft.outbox_places))
    limits.watch("streamed_reads", lambda: LimitUse(*peers.streaming_places))
    for name, purpose in (
        ("peer_calls_cluster", Purpose.CLUSTER),
        ("peer_calls_client", Purpose.CLIENT),
        ("peer_calls_produce", Purpose.PRODUCE),
        ("peer_calls_parked", Purpose.PARKED),
    ):
        _watch_calls(limits, name, peers, purpose)
    for name, bytes_of in (
        ("inflight_produce_bytes", context.inflight),
        ("inflight_other_bytes", context.other_bodies),
        ("unsent_answer_bytes", context.unsent),
    ):
        _watch_bytes(limits, name, bytes_of)


def _watch_calls(limits: LimitGauges, name: str, peers: PeerClient, purpose: Purpose) -> None:
    limits.watch(name, lambda: LimitUse(*peers.places(purpose)))


def _watch_bytes(limits: LimitGauges, name: str, held: InflightBytes) -> None:
    limits.watch(name, lambda: LimitUse(held.held_bytes, held.limit_bytes))


def _fullest_log(replicas: ReplicaManager) -> LimitUse:
    return max(
        (
            LimitUse(hosted.log.pending_bytes, hosted.log.config.pending_max_bytes)
            for hosted in replicas.partitions.values()
        ),
        default=LimitUse(0, 0),
    )
