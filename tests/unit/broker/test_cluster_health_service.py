"""Whom a broker asks for the cluster's health, and what it makes of the answers."""

from types import SimpleNamespace

from ottla_broker.services.cluster_health import ClusterHealthService
from ottla_cluster.controller.health import Page
from ottla_cluster.controller.node_reports import NodeReport
from ottla_protocol.models import Readiness
from tests.unit.controller.metadata_under_test import MetadataUnderTest


def voter(node_id):
    return NodeReport(node_id, 3, 1, 1)


class World:
    """Broker 1 of three, whose quorum is made of these voters."""

    def __init__(self, voters, answers):
        self.image = MetadataUnderTest().image
        self.partitions = {}
        self.term, self.leader_id = 3, 1
        self.voter_ids = tuple(voters)
        self.voter_urls = {node_id: url for node_id, url in voters.items() if url}
        self.answers = answers
        self.service = ClusterHealthService(
            node_id=1,
            metadata=self,
            controller=SimpleNamespace(catch_up=self.catch_up),
            raft=self,
            replicas=self,
            peers=self,
            readiness=lambda: Readiness("ready", []),
            confirmed_at_ms=lambda: None,
        )

    async def catch_up(self):
        return True

    async def call(self, url, route, body, *, timeout_ms, answer, purpose):
        return self.answers.get(url) or voter(self.node_at(url))

    def node_at(self, url):
        return next(each.node_id for each in self.image.brokers.values() if each.url == url)

    async def health(self):
        return await self.service.health(Page())


async def test_a_voter_that_nobody_can_find_is_missed():
    told = await World({1: "http://one", 2: "http://two", 9: None}, {}).health()
    assert [(each.id, each.answers) for each in told.voters] == [(1, True), (2, True), (9, False)]
    assert told.status == "degraded"
    (reason,) = told.reasons
    assert (reason.code, reason.broker) == ("voter_silent", 9)
    assert "URL is not known" in reason.detail


async def test_a_voter_that_is_no_broker_is_asked_where_the_quorum_says():
    world = World({1: "http://one", 9: "http://nine"}, {"http://nine": voter(9)})
    told = await world.health()
    assert [(each.id, each.answers) for each in told.voters] == [(1, True), (9, True)]
    assert told.status == "healthy"
