"""The JSON of a poll's answer, whatever was found in each partition."""

import json

import pytest

from ottla_broker.http.group_poll import _render
from ottla_broker.services.group_poll import Polled
from ottla_broker.services.polled_records import PolledPartition
from ottla_protocol.record_codec import Record

FOUND = PolledPartition(("t", 0), [Record(5, 1, None, b"1"), Record(6, 1, None, b"2")], 7)
PASSED = PolledPartition(("t", 1), (), 9)


@pytest.mark.parametrize(
    ("partitions", "offsets"),
    [
        ([], []),
        ([PASSED], []),
        ([PASSED, PASSED], []),
        ([FOUND, PASSED], [5, 6]),
        ([PASSED, FOUND, PASSED, FOUND], [5, 6, 5, 6]),
    ],
)
def test_partitions_without_records_leave_no_trace(partitions, offsets):
    polled = Polled("g", "m-1", 4, partitions, "ack", is_new=False)
    document = json.loads(_render(polled, "auto"))
    assert [record["offset"] for record in document["records"]] == offsets
    assert (document["member_id"], document["generation"], document["ack"]) == ("m-1", 4, "ack")
