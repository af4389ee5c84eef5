"""What brokers say of their API: the document, and the page whose examples work as they stand."""

import re
import shlex
import subprocess
from html import unescape

import msgspec
import pytest

from ottla_broker.http.operation_tables import OPERATIONS
from ottla_protocol import routes
from ottla_protocol.models import (
    BatchToAppend,
    BinaryFetchRequest,
    BinaryProduceRequest,
    PartitionToFetch,
)
from ottla_protocol.models_restores import RestoreRecordsRequest
from ottla_protocol.record_codec import RecordData, encode_batch

pytestmark = pytest.mark.cluster

EXAMPLE_TIMEOUT_S = 60
"""Every example's answer ends by itself; so long it may take on a busy machine."""

ALL_EXAMPLES_TIMEOUT_S = 600

JOINS = '"member_id": "laptop"'
"""In the bodies of the lines that join. The lines which need that member come later."""

STAYS = f'{JOINS}, "session_timeout_ms": {1_000 * ALL_EXAMPLES_TIMEOUT_S}'
"""A reader stays below the session timeout; this test may not, on a busy machine."""

REFUSED = {
    # There is no node 4.
    "addVoter": 422,
    # Three brokers have three replicas of everything.
    "drainBroker": 422,
    "unregisterBroker": 409,
    # The instance reads partitions that were chosen for it, and must leave them first.
    "proxySubscribe": 409,
    # It has moved already, and the same topic is deleted twice.
    "restDescribeReassignment": 404,
    "deleteTopic": 404,
    # Nobody was granted the token of the examples.
    "commitTransactionOffsets": 409,
    "commitTransaction": 409,
    "abortTransaction": 409,
}
"""What the cluster of this test cannot do, and says so."""


def test_the_document_is_the_same_everywhere_and_is_not_sent_twice(shared):
    bodies = set()
    for node_id in shared.node_ids:
        url = shared.url(node_id) + routes.OPENAPI
        answer = shared.http.get(url).expect(200)
        bodies.add(answer.body)
        known = {"If-None-Match": answer.headers["ETag"]}
        again = shared.http.call("GET", url, headers=known).expect(304)
        assert (again.body, again.headers["ETag"]) == (b"", answer.headers["ETag"])
        shared.http.call("GET", url, headers={"If-None-Match": '"another"'}).expect(200)
    assert len(bodies) == 1
    assert answer.document["openapi"].startswith("3.1.")


def curl_lines(client):
    """By operation id, as the page of one broker shows them."""
    answer = client.http.get(client.any_url() + routes.DOCS).expect(200)
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    found = re.findall(
        r'<article id="(\w+)".*?<pre><code>(.*?)</code></pre>', answer.text, re.DOTALL
    )
    return {name: unescape(line) for name, line in found}


def write_bodies(directory):
    """The MessagePack bodies that the page's lines name."""
    batch = encode_batch([RecordData(1, None, b"from curl")])
    bodies = {
        "produceBatches": BinaryProduceRequest([BatchToAppend("flights", 0, memoryview(batch))]),
        "fetchBatches": BinaryFetchRequest([PartitionToFetch("flights", 0, 0)], max_wait_ms=0),
        "restoreRecords": RestoreRecordsRequest("monday", 0, [memoryview(batch)]),
    }
    for name, body in bodies.items():
        (directory / f"{name}.bin").write_bytes(msgspec.msgpack.encode(body))


@pytest.mark.timeout(ALL_EXAMPLES_TIMEOUT_S)
def test_each_curl_line_of_the_page_does_what_it_says(start_cluster, tmp_path):
    client = start_cluster()
    write_bodies(tmp_path)
    lines = curl_lines(client)
    assert set(lines) == {each.operation_id for each in OPERATIONS}
    for name in ("poll", "joinGroup"):
        assert JOINS in lines[name]
        lines[name] = lines[name].replace(JOINS, STAYS)
    failed = []
    for operation in sorted(OPERATIONS, key=comes_late):
        name = operation.operation_id
        # Partitions were moved before: their new leaders may have a reader come back.
        retries = ["--retry", "3"] if operation.method == "GET" else []
        status, body = run(lines[name], tmp_path, retries)
        if status == 421:
            # Said to the SDK's calls, which go to the leader.
            leader_url = msgspec.json.decode(body)["leader_url"]
            status, body = run(lines[name].replace(client.any_url(), leader_url), tmp_path)
        if status != REFUSED.get(name, status) or (name not in REFUSED and status >= 300):
            failed.append((lines[name], status, body))
    assert not failed, "\n".join(map(str, failed))


WITHOUT_MEMBERS = ("leaveGroup", "commitOffsets", "committedOffsets", "seekGroup")


def comes_late(operation):
    """Where it stands: what needs a member comes first, and what takes away last."""
    if operation.operation_id in WITHOUT_MEMBERS:
        return 1, WITHOUT_MEMBERS.index(operation.operation_id)
    if "lag" in operation.path:
        return 2, 0
    if operation.method == "DELETE":
        return 3, -operation.path.count("/")
    return 0, 0


def run(line, directory, more_options=()):
    """The status and the body of a curl line, tried again as the options have it."""
    words = shlex.split(line)
    assert words[0] == "curl"
    options = ["-m", str(EXAMPLE_TIMEOUT_S), "-w", "\n%{http_code}", *more_options]
    ran = subprocess.run(
        ["curl", *options, *words[1:]], stdout=subprocess.PIPE, cwd=directory, check=False
    )
    body, _, status = ran.stdout.rpartition(b"\n")
    return int(status), body
