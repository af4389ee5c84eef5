"""When a cluster counts as whole."""

from types import SimpleNamespace

import pytest

from ottla_protocol import routes
from tests.chaos.world import World
from tests.cluster.cluster_client import ClusterClient


class Described:
    """Answers who asks for a topic or for the voters.

    Args:
        isr: that of the groups' offsets, None without groups.
        voting_directory: what the quorum has of the one broker; None where it does not vote.
    """

    def __init__(self, isr, voting_directory):
        self._isr = isr
        voters = [{"id": 1, "directory_id": voting_directory}] if voting_directory else []
        self._quorum = {"configuration_committed": True, "voters": voters}

    def get(self, url, **_options):
        if url.endswith(routes.CLUSTER_QUORUM):
            return SimpleNamespace(expect=lambda _: SimpleNamespace(document=self._quorum))
        isr = [1, 2, 3] if url.endswith("/orders") else self._isr
        states = [{"partition": number, "isr": isr} for number in range(2)]
        document = {"partitions": states}
        status = 404 if isr is None else 200
        return SimpleNamespace(
            status=status, document=document, expect=lambda _: SimpleNamespace(document=document)
        )


def world_with(tmp_path, isr, voting_directory="d"):
    (tmp_path / "directory.json").write_text('{"directory_id": "d"}')
    broker = SimpleNamespace(
        node_id=1, url="http://1", is_running=True, is_paused=False, data_dir=tmp_path
    )
    cluster = SimpleNamespace(
        brokers=[broker], broker=lambda _: broker, wait_ready=lambda _timeout_s: None
    )
    world = World(tmp_path, partitions=2)
    world.cluster, world.client = cluster, ClusterClient(cluster, Described(isr, voting_directory))
    return world


@pytest.mark.parametrize("isr", [None, [3, 1, 2]])
def test_a_cluster_is_whole_with_groups_or_without(tmp_path, isr):
    world_with(tmp_path, isr).wait_whole(0.1)


def test_a_replica_of_the_groups_offsets_that_is_out_of_sync_is_waited_for(tmp_path):
    with pytest.raises(AssertionError, match=r"ISR sizes \[2, 2\], not 3"):
        world_with(tmp_path, [1, 2]).wait_whole(0.1)


@pytest.mark.parametrize("voting_directory", ["the former one", None])
def test_a_broker_that_does_not_vote_with_its_directory_is_waited_for(tmp_path, voting_directory):
    with pytest.raises(AssertionError, match="not within"):
        world_with(tmp_path, None, voting_directory).wait_whole(0.1)
