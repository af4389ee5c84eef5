"""When a cluster counts as whole."""

from types import SimpleNamespace

import pytest

from tests.chaos.world import World
from tests.cluster.cluster_client import ClusterClient


class Described:
    """Answers who asks for a topic; `isr` is that of the groups' offsets, None without groups."""

    def __init__(self, isr):
        self._isr = isr

    def get(self, url, **_options):
        isr = [1, 2, 3] if url.endswith("/orders") else self._isr
        states = [{"partition": number, "isr": isr} for number in range(2)]
        document = {"partitions": states}
        status = 404 if isr is None else 200
        return SimpleNamespace(
            status=status, document=document, expect=lambda _: SimpleNamespace(document=document)
        )


def world_with(tmp_path, isr):
    broker = SimpleNamespace(node_id=1, url="http://1", is_running=True, is_paused=False)
    cluster = SimpleNamespace(
        brokers=[broker], broker=lambda _: broker, wait_ready=lambda _timeout_s: None
    )
    world = World(tmp_path, partitions=2)
    world.cluster, world.client = cluster, ClusterClient(cluster, Described(isr))
    return world


@pytest.mark.parametrize("isr", [None, [3, 1, 2]])
def test_a_cluster_is_whole_with_groups_or_without(tmp_path, isr):
    world_with(tmp_path, isr).wait_whole(0.1)


def test_a_replica_of_the_groups_offsets_that_is_out_of_sync_is_waited_for(tmp_path):
    with pytest.raises(AssertionError, match=r"ISR sizes \[2, 2\], not 3"):
        world_with(tmp_path, [1, 2]).wait_whole(0.1)
