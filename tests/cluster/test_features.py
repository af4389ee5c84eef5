"""The feature level of a running cluster: from the older version's level to the newest."""

import pytest

from ottla_cluster.controller.features import LATEST_FEATURE_LEVEL
from ottla_protocol import routes
from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster


def features(client, via):
    url = client.url(via) + routes.CLUSTER_FEATURES
    return client.http.get(url).expect(200).document


def upgrade(client, via, **body):
    return client.http.post(client.url(via) + routes.CLUSTER_FEATURES, body)


def test_the_level_rises_once_every_process_supports_it(start_cluster):
    client = start_cluster(settings={"OTTLA_INITIAL_FEATURE_LEVEL": "1"})
    found = features(client, 2)
    assert (found["feature_level"], found["upgradable_to"]) == (1, LATEST_FEATURE_LEVEL)
    assert [each["latest"] for each in found["processes"]] == [LATEST_FEATURE_LEVEL] * 3
    assert not any(each["enabled"] for each in found["features"])

    # Whoever is away may come back as an older version.
    client.cluster.broker(3).kill()
    refused = upgrade(client, 1).expect(409)
    assert refused.code == "UNSUPPORTED_FEATURE_LEVEL"
    assert "Node 3" in refused.document["detail"]
    assert features(client, 1)["upgradable_to"] is None
    client.cluster.broker(3).start()
    client.cluster.broker(3).wait_ready()

    dry = upgrade(client, 3, validate_only=True).expect(200).document
    assert dry == {"former_level": 1, "feature_level": LATEST_FEATURE_LEVEL}
    assert features(client, 1)["feature_level"] == 1
    assert upgrade(client, 3).expect(200).document == dry
    for node_id in client.node_ids:
        eventually(
            lambda node_id=node_id: (
                features(client, node_id)["feature_level"] > 1
                and all(each["enabled"] for each in features(client, node_id)["features"])
            )
        )
    refused = upgrade(client, 1, feature_level=1).expect(422)
    assert "never falls" in refused.document["detail"]

    controller = client.controller()
    client.cluster.broker(controller).kill()
    other = client.others(controller)[0]
    assert features(client, other)["feature_level"] == LATEST_FEATURE_LEVEL
