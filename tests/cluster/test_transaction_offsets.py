"""Offsets of a group that are committed with a transaction, on real brokers."""

import uuid

import pytest

from ottla_protocol import routes
from tests.cluster.awaiting import eventually
from tests.cluster.group_member import GroupMember
from tests.cluster.transactional_client import TransactionalClient

pytestmark = pytest.mark.cluster

MARKER_LIMIT_S = 30.0
"""Markers take milliseconds, a failover in between seconds, and a busy machine more."""


@pytest.fixture
def group():
    return f"g-{uuid.uuid4().hex}"


def transactional(client):
    return TransactionalClient(client, f"t-{uuid.uuid4().hex}")


def ask(client, group, *, require_stable="true"):
    url = client.any_url() + routes.GROUP_OFFSETS.format(group=group)
    return client.http.get(url, require_stable=require_stable)


def offset_of(answer):
    offsets = answer.expect(200).document["offsets"]
    return offsets[0]["offset"] if offsets else None


def wait_stable(client, group):
    """The committed offset, once no transaction can change it; None where there is none."""
    return offset_of(eventually(lambda: ask(client, group).expect(200), MARKER_LIMIT_S))


def describe(client, group):
    return client.http.get(client.any_url() + routes.GROUP.format(group=group))


def test_of_two_commits_of_an_offset_the_later_one_counts(shared, topic, group):
    producer = transactional(shared)
    path = routes.GROUP_OFFSETS.format(group=group)

    def commit(offset):
        offsets = [{"topic": topic, "partition": 0, "offset": offset}]
        return shared.http.post(shared.any_url() + path, {"offsets": offsets}).expect(200)

    producer.offsets(group, topic, 3).expect(200)
    commit(1)
    assert offset_of(ask(shared, group)) == 1
    producer.commit().expect(200)
    # The next transaction begins when the group's coordinator has the marker of this one.
    producer.offsets(group, topic, 2).expect(200)
    assert offset_of(ask(shared, group, require_stable="false")) == 1
    producer.commit().expect(200)
    assert wait_stable(shared, group) == 2


def test_offsets_wait_for_the_end_of_their_transaction(shared, topic, group):
    producer = transactional(shared)
    producer.offsets(group, topic, 3).expect(200)
    assert offset_of(ask(shared, group, require_stable="false")) is None
    assert ask(shared, group).expect(503).code == "UNSTABLE_OFFSET_COMMIT"
    [pending] = describe(shared, group).expect(200).document["pending"]
    assert pending == {
        "producer_id": producer.granted["producer_id"],
        "producer_epoch": producer.granted["producer_epoch"],
        "offsets": [{"topic": topic, "partition": 0, "offset": 3}],
    }
    url = shared.any_url()
    group_url = url + routes.GROUP.format(group=group)
    assert shared.http.call("DELETE", group_url).expect(503).code == "UNSTABLE_OFFSET_COMMIT"
    wanted = {"to": "earliest", "topics": [topic]}
    sought = shared.http.post(url + routes.GROUP_SEEK.format(group=group), wanted)
    assert sought.expect(503).code == "UNSTABLE_OFFSET_COMMIT"

    late = producer.token
    producer.commit().expect(200)
    assert wait_stable(shared, group) == 3
    refused = producer.offsets(group, topic, 4, token=late).expect(409)
    assert (refused.code, refused.document["outcome"]) == ("TRANSACTION_ABORTABLE", "not_applied")
    assert describe(shared, group).expect(200).document["pending"] == []

    producer.offsets(group, topic, 5).expect(200)
    producer.abort().expect(200)
    assert wait_stable(shared, group) == 3
    shared.http.call("DELETE", group_url).expect(204)


def test_members_commit_what_they_hold(shared, topic, group):
    producer = transactional(shared)
    member = GroupMember(shared, group, [topic])
    assert member.partitions == {(topic, 0)}
    assert producer.offsets(group, topic, 1).expect(409).code == "NON_EMPTY_GROUP"
    identity = {"member_id": member.member_id, "generation": member.generation}
    stale = identity | {"generation": member.generation - 1}
    assert producer.offsets(group, topic, 1, **stale).expect(409).code == "FENCED"
    producer.offsets(group, topic, 1, **identity).expect(200)
    member.leave()
    # Whoever takes over waits: the transaction still counts.
    assert producer.offsets(group, topic, 2, **identity).expect(409).code == "UNKNOWN_MEMBER_ID"
    assert ask(shared, group).expect(503).code == "UNSTABLE_OFFSET_COMMIT"
    producer.commit().expect(200)
    assert wait_stable(shared, group) == 1


def test_pending_offsets_outlive_their_coordinator(start_cluster):
    client = start_cluster()
    client.create_topic("t")
    client.wait_led("t")
    committing, aborting = transactional(client), transactional(client)
    committing.offsets("kept", "t", 7).expect(200)
    aborting.offsets("dropped", "t", 7).expect(200)
    coordinator = describe(client, "kept").expect(200).document["coordinator"]
    client.cluster.broker(coordinator).kill()

    def is_pending():
        return describe(client, "kept").expect(200).document["pending"]

    assert len(eventually(is_pending, MARKER_LIMIT_S)) == 1
    eventually(lambda: committing.commit().expect(200), MARKER_LIMIT_S)
    eventually(lambda: aborting.abort().expect(200), MARKER_LIMIT_S)
    assert wait_stable(client, "kept") == 7
    assert wait_stable(client, "dropped") is None
