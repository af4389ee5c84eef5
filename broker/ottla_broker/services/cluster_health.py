"""The cluster's health, as any broker tells it: what it knows, and what the others answer.

Every registered broker and every voter is asked for its own view, all at once and for
ASK_TIMEOUT_MS at most. Who is silent is told, and nothing waits for it. Callers at the same time
share one round of questions, so that dashboards cost no more than one of them.
"""

import asyncio
from collections.abc import Callable

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.controller_client import ControllerClient
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_client import PeerClient, PeerUnavailableError, Purpose
from ottla_broker.drivers.raft_driver import RaftDriver
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_cluster.controller.health import Knowledge, Page, assess
from ottla_cluster.controller.node_reports import (
    MAX_REPORTED_REPLICAS,
    LaggingReplicaReport,
    NodeReport,
    SilentNode,
    UnfitReplicaReport,
)
from ottla_cluster.controller.partition_conditions import ConditionCensus
from ottla_protocol import routes
from ottla_protocol.errors import NotFoundError, OttlaError
from ottla_protocol.models import Readiness
from ottla_protocol.models_health import ClusterHealth

ASK_TIMEOUT_MS = 1_000
"""How long a node may take to tell how it is."""


class ClusterHealthService:
    """Tells the cluster's health, and to other brokers what this one sees.

    Args:
        readiness: whether this node can serve, as `/readyz` says.
        confirmed_at_ms: when the controller last confirmed this broker's metadata by a heartbeat,
            on the monotonic clock; None while it has not.
    """

    def __init__(
        self,
        *,
        node_id: int,
        metadata: MetadataCache,
        controller: ControllerClient,
        raft: RaftDriver,
        replicas: ReplicaManager,
        peers: PeerClient,
        readiness: Callable[[], Readiness],
        confirmed_at_ms: Callable[[], int | None],
    ) -> None:
        self._node_id = node_id
        self._metadata = metadata
        self._controller = controller
        self._raft = raft
        self._replicas = replicas
        self._peers = peers
        self._readiness = readiness
        self._confirmed_at_ms = confirmed_at_ms
        self._census = ConditionCensus()
        self._current_at_ms: int | None = None
        self._round: asyncio.Task[Knowledge] | None = None

    async def health(self, page: Page) -> ClusterHealth:
        """The cluster's health, a page of its partitions at a time.

        Raises:
            InvalidRequestError: the page's cursor is none of ours.
        """
        return assess(await self._knowledge(), page, self._census)

    def report(self) -> NodeReport:
        """What this node sees: its unfit replicas, and who lags behind the partitions it leads."""
        now_ms = monotonic_ms()
        unfit: list[UnfitReplicaReport] = []
        lagging: list[LaggingReplicaReport] = []
        for (topic_id, number), hosted in self._replicas.partitions.items():
            if hosted.fitness.lost_tail:
                unfit.append(UnfitReplicaReport(topic_id, number, "lost_end"))
            elif not hosted.fitness.is_whole or len(hosted.log.damage) > 0:
                unfit.append(UnfitReplicaReport(topic_id, number, "damaged"))
            if hosted.leader is not None:
                lagging.extend(
                    LaggingReplicaReport(topic_id, number, *missing)
                    for missing in hosted.leader.missing_replicas(now_ms)
                )
        listed_unfit = unfit[:MAX_REPORTED_REPLICAS]
        listed_lagging = lagging[:MAX_REPORTED_REPLICAS]
        return NodeReport(
            node_id=self._node_id,
            term=self._raft.term,
            controller=self._raft.leader_id,
            metadata_version=self._metadata.image.version,
            unfit=listed_unfit,
            lagging=listed_lagging,
            not_ready=self._readiness().reasons,
            omitted=len(unfit) + len(lagging) - len(listed_unfit) - len(listed_lagging),
        )

    async def _knowledge(self) -> Knowledge:
        if self._round is None:
            self._round = asyncio.create_task(self._ask(), name="cluster-health")
            self._round.add_done_callback(self._round_over)
        return await asyncio.shield(self._round)

    def _round_over(self, asked: "asyncio.Task[Knowledge]") -> None:
        self._round = None
        if not asked.cancelled():
            asked.exception()  # Retrieved, for the case that nobody waits any more.

    async def _ask(self) -> Knowledge:
        asked_at_ms = monotonic_ms()
        urls = self._urls()
        is_current, answers = await asyncio.gather(
            self._controller.catch_up(),
            asyncio.gather(*(self._ask_node(node_id, urls[node_id]) for node_id in sorted(urls))),
        )
        if is_current:
            self._current_at_ms = asked_at_ms
        return Knowledge(
            node_id=self._node_id,
            image=self._metadata.image,
            controller=self._raft.leader_id,
            term=self._raft.term,
            is_current=is_current,
            age_ms=self._age_ms(),
            voters=self._raft.voter_ids,
            reports=[each for each in answers if isinstance(each, NodeReport)] + [self.report()],
            silent=[each for each in answers if isinstance(each, SilentNode)],
        )

    def _urls(self) -> dict[int, str | None]:
        """Every other node that there is to ask; a registration is newer than a setting."""
        known = self._raft.voter_urls
        urls: dict[int, str | None] = {
            voter_id: known.get(voter_id) for voter_id in self._raft.voter_ids
        }
        urls |= {broker.node_id: broker.url for broker in self._metadata.image.brokers.values()}
        urls.pop(self._node_id, None)
        return urls

    async def _ask_node(self, node_id: int, url: str | None) -> NodeReport | SilentNode:
        if url is None:
            return SilentNode(node_id, "its URL is not known here")
        try:
            report = await self._peers.call(
                url,
                routes.INTERNAL_NODE_REPORT,
                b"",
                timeout_ms=ASK_TIMEOUT_MS,
                answer=NodeReport,
                purpose=Purpose.CLIENT,
            )
        except PeerUnavailableError as error:
            return SilentNode(node_id, "connection refused" if error.refused else error.detail)
        except NotFoundError:
            return SilentNode(node_id, "its version does not know this question yet")
        except OttlaError as error:
            # Not ours to hide: another cluster, or a peer with too much to do.
            return SilentNode(node_id, f"{error.code}: {error.detail}")
        if report.node_id != node_id:
            return SilentNode(node_id, f"{url} is node {report.node_id}")
        return report

    def _age_ms(self) -> int | None:
        known = [at for at in (self._current_at_ms, self._confirmed_at_ms()) if at is not None]
        return None if not known else max(0, monotonic_ms() - max(known))
