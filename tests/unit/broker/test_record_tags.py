"""An entity tag is of the records that were read, whatever happens before it is made."""

from types import SimpleNamespace

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from ottla_broker.http.context import CONTEXT
from ottla_broker.http.records import read
from ottla_broker.services.record_read import RecordsRead
from ottla_protocol import routes
from ottla_protocol.record_codec import Record

TOPIC_ID = "0123456789abcdef0123456789abcdef"


def image(unclean_leader_epoch):
    partition = SimpleNamespace(leader=1, unclean_leader_epoch=unclean_leader_epoch)
    topic = SimpleNamespace(partitions=[partition], configs={})
    return SimpleNamespace(topics={TOPIC_ID: topic}, partition=lambda *_: partition)


class Broker:
    """Leads a partition; an unclean election elsewhere may come while it decodes records."""

    def __init__(self, epoch_before, epoch_after):
        self.image = image(epoch_before)
        self._after = image(epoch_after)

    async def find_partition(self, *_):
        return self.image.partition()

    async def read(self, *_, local):
        self.image = self._after
        return RecordsRead(TOPIC_ID, [Record(0, 1, None, b"1", ())], 0, 1, True, 9, 0, 1)

    async def tag(self):
        application = web.Application()
        application[CONTEXT] = SimpleNamespace(
            topics=self, metadata=self, record_read=self, settings=SimpleNamespace(node_id=1)
        )
        application.router.add_get(routes.PARTITION_RECORDS, read)
        async with TestClient(TestServer(application)) as client:
            path = routes.PARTITION_RECORDS.format(topic="t", partition=0)
            response = await client.get(path, params={"offset": "0"})
            assert response.status == 200, await response.text()
            return response.headers["ETag"]


async def test_an_unclean_election_during_a_read_does_not_lend_its_tag_to_former_records():
    """Else the next leader would tell a client to keep records that are lost."""
    raced = await Broker(None, 7).tag()
    assert raced == await Broker(None, None).tag()
    assert raced != await Broker(7, 7).tag()
