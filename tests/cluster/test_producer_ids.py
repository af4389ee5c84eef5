"""`POST /v1/producer-ids`: an id is given once, whoever gives it and whatever happens meanwhile."""

import pytest

from ottla_protocol import routes
from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster


def ask(client, node_id, document=None):
    return client.http.post(client.url(node_id) + routes.PRODUCER_IDS, document or {})


def take(client, node_id):
    """One id from that broker, as soon as it can give one."""

    def taken():
        answer = ask(client, node_id)
        assert answer.status == 200 or answer.document["retriable"], answer.body
        return answer.status == 200 and answer.document

    document = eventually(taken)
    assert document["producer_epoch"] == 0
    return document["producer_id"]


def test_every_broker_gives_ids_of_its_own(shared):
    taken = [take(shared, node_id) for node_id in shared.node_ids for _ in range(5)]
    assert len(set(taken)) == len(taken)
    assert min(taken) >= 0


def test_more_ids_than_a_block_has(shared):
    taken = [take(shared, 1) for _ in range(1_100)]
    assert len(set(taken)) == len(taken)


def test_a_body_that_asks_for_more_is_refused(shared):
    answer = ask(shared, 1, {"producer_id": 7})
    assert (answer.status, answer.code) == (422, "INVALID_REQUEST")
    assert "producer_id" in answer.document["detail"]
    nobody = shared.http.post(shared.url(1) + routes.PRODUCER_IDS, body=b"")
    assert (nobody.status, nobody.code) == (400, "MALFORMED_BODY")


def test_no_id_comes_back_after_restarts_and_failover(start_cluster):
    client = start_cluster()
    taken = [take(client, node_id) for node_id in client.node_ids for _ in range(3)]
    controller = client.controller()
    client.cluster.broker(controller).kill()
    for survivor in client.others(controller):
        taken += [take(client, survivor) for _ in range(3)]
    client.cluster.broker(controller).start()
    client.cluster.wait_ready()
    taken += [take(client, controller) for _ in range(3)]
    client.cluster.kill()
    client.cluster.start()
    client.cluster.wait_ready()
    taken += [take(client, node_id) for node_id in client.node_ids for _ in range(3)]
    assert len(set(taken)) == len(taken)
