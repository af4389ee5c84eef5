"""Replicas of a cluster that cannot be asked: they are told, and hide no other."""

import msgspec
import pytest

from ottla_ops.cli.cluster_segments import ClusterSegments, ReplicaName
from ottla_ops.cli.failures import CommandError, ExitCode
from ottla_ops.cli.http_connection import Answer
from ottla_protocol.models import PartitionDescription, TopicDescription
from ottla_protocol.models_segments import SegmentList, SegmentVerificationPart


class Connection:
    """Answers for every broker but those of `gone`."""

    def __init__(self, gone):
        self.gone = gone
        self.asked = []

    def retry(self, attempt, *, timeout_s):
        return attempt()

    def request(self, method, path, *, query=None, body=None, **options):
        if path == "/v1/topics/orders":
            partitions = [
                PartitionDescription(number, leader, 1, [1, 2, 3], [1, 2, 3])
                for number, leader in enumerate((2, None))
            ]
            return answer(TopicDescription("orders", "id", partitions, {}))
        replica = query["replica"] if query else msgspec.json.decode(body)["replica"]
        self.asked.append(replica)
        if replica in self.gone:
            raise CommandError(
                f"broker {replica} is fenced",
                code="BROKER_NOT_AVAILABLE",
                exit_code=ExitCode.UNAVAILABLE,
                retriable=True,
            )
        if method == "GET":
            return answer(SegmentList("orders", 0, replica, "follower", 0, 0, 0, []))
        return answer(SegmentVerificationPart("orders", 0, replica, [], 0, None))


def answer(document):
    return Answer(200, msgspec.json.encode(document))


def looked_into(gone, look):
    connection = Connection(gone)
    segments = ClusterSegments(connection, "orders", 1.0)
    for name in segments.replicas(None, None):
        list(look(segments, name))
    return connection, segments


@pytest.mark.parametrize("look", [ClusterSegments.list_segments, ClusterSegments.verify])
def test_a_silent_broker_is_asked_once_and_told_at_the_end(look):
    connection, segments = looked_into({3}, look)
    assert connection.asked == [1, 2, 3, 1, 2]
    assert [name for name, _ in segments.failures] == [ReplicaName(0, 3), ReplicaName(1, 3)]
    with pytest.raises(CommandError, match=r"2 replicas .* orders-0 on broker 3") as raised:
        segments.raise_failures()
    assert raised.value.exit_code is ExitCode.UNAVAILABLE


def test_replicas_are_chosen():
    segments = ClusterSegments(Connection(set()), "orders", 1.0)
    chosen = [(name.partition, name.node_id) for name in segments.replicas(None, 3)]
    assert chosen == [(0, 3), (1, 3)]
    # Where there is no leader, another replica has to do.
    chosen = [
        (name.partition, name.node_id) for name in segments.replicas(None, None, leaders_only=True)
    ]
    assert chosen == [(0, 2), (1, 1)]
    with pytest.raises(CommandError, match="no replica of orders on broker 9"):
        segments.replicas(None, 9)
    segments.raise_failures()
