"""`…/segments` and `ottla segment` without a path: looking into replicas through any broker."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from itertools import count

import pytest

from ottla_ops.cli.main import run
from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster

RECORDS = 40
SEGMENT_BYTES = 16_384

_topic_numbers = count(1)


@pytest.fixture(scope="module")
def sealed(shared):
    """A topic of a few segments on each of three brokers, whose replicas are alike.

    Tests of this module that another worker leaves to this one may come after those of others, and
    then the same brokers get another topic.
    """
    return filled(shared, f"segments-{next(_topic_numbers)}")


def filled(shared, name):
    shared.create_topic(
        name, partitions=1, replication_factor=3, configs={"segment.bytes": str(SEGMENT_BYTES)}
    )
    shared.wait_led(name)
    for number in range(RECORDS):
        shared.append(name, f"{number:02d}" + "v" * 2_000)
    shared.wait_replicas_equal(name)
    return name


def segments_url(shared, topic, node_id, rest=""):
    return f"{shared.url(node_id)}/v1/topics/{topic}/partitions/0/segments{rest}"


def listed(shared, topic, node_id, **query):
    return shared.http.get(segments_url(shared, topic, node_id), **query).expect(200)


def verified(shared, topic, node_id, **body):
    """All parts of a verification, asked of one broker."""
    parts = []
    while True:
        answer = shared.http.post(segments_url(shared, topic, node_id, "/verify"), body)
        parts.append(answer.expect(200).document)
        body["offset"] = parts[-1]["next_offset"]
        if body["offset"] is None:
            return parts


def ottla(shared, *arguments):
    """The exit code of the command, what it printed as JSON, and stderr."""
    out = io.TextIOWrapper(io.BytesIO(), write_through=True)
    err = io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run([*arguments, "--bootstrap", shared.cluster.bootstrap, "--json"])
    lines = out.buffer.getvalue().splitlines()
    return code, [json.loads(line) for line in lines], err.getvalue()


def test_any_broker_tells_what_any_replica_holds(shared, sealed):
    leader = shared.leader(sealed)
    for asked, replica in zip(shared.node_ids, [2, 3, 1], strict=True):
        answer = listed(shared, sealed, asked, replica=replica)
        found = answer.document
        assert (found["replica"], answer.headers["Ottla-Served-By"]) == (replica, str(replica))
        assert found["role"] == ("leader" if replica == leader else "follower")
        segments = found["segments"]
        assert len(segments) > 2
        assert [each["state"] for each in segments[:-1]] == ["sealed"] * (len(segments) - 1)
        assert segments[-1]["state"] == "active"
        assert segments[-1]["end_offset"] == found["log_end_offset"] == RECORDS
        assert sum(each["records"] for each in segments) == RECORDS
        assert segments[0]["file"] == f"{sealed}-0/{0:020d}.sqlite"
        assert all(each["size_bytes"] > 0 for each in segments)
    assert listed(shared, sealed, 1).document["replica"] == leader


def test_a_long_list_comes_in_parts(shared, sealed):
    whole = listed(shared, sealed, 1, replica=2).document["segments"]
    parts, start = [], 0
    while start is not None:
        part = listed(shared, sealed, 1, replica=2, max_segments=2, **{"from": start}).document
        assert len(part["segments"]) <= 2
        parts += part["segments"]
        start = part["next_offset"]
    assert [each["base_offset"] for each in parts] == [each["base_offset"] for each in whole]


def test_what_makes_no_sense_is_refused(shared, sealed):
    url = segments_url(shared, sealed, 1)
    refused = shared.http.get(url, replica=9).expect(422).document
    assert sorted(refused["replicas"]) == [1, 2, 3]
    shared.http.get(url, replica=0).expect(422)
    shared.http.get(url, max_segments=0).expect(422)
    shared.http.get(url, colour="red").expect(422)
    shared.http.get(segments_url(shared, "no-such-topic", 1)).expect(404)
    shared.http.get(f"{shared.url(1)}/v1/topics/{sealed}/partitions/7/segments").expect(404)
    shared.http.post(f"{url}/verify", {"max_bytes": 0}).expect(422)
    shared.http.post(f"{url}/verify", {"offset": -1}).expect(422)
    shared.http.post(f"{url}/verify", {"colour": "red"}).expect(422)


def test_a_verification_goes_on_where_its_last_part_ended(shared, sealed):
    for replica in shared.node_ids:
        parts = verified(shared, sealed, 1, replica=replica, max_bytes=10_000)
        assert len(parts) > 3
        found = [each for part in parts for each in part["segments"]]
        assert sum(each["records"] for each in found) == RECORDS
        assert all(each["findings"] == [] and each["is_complete"] for each in found)
        assert sum(part["verified_bytes"] for part in parts) > RECORDS * 2_000
    [whole] = verified(shared, sealed, 1)
    assert whole["replica"] == shared.leader(sealed)


def test_the_command_looks_into_all_replicas(shared, sealed):
    code, [found], _ = ottla(shared, "segment", "list", "--topic", sealed)
    assert code == 0
    assert [each["replica"] for each in found["replicas"]] == [1, 2, 3]
    assert {each["replica"] for each in found["segments"]} == {1, 2, 3}
    code, [found], _ = ottla(
        shared, "segment", "list", "--topic", sealed, "--broker", "2", "--partition", "0"
    )
    assert (code, {each["replica"] for each in found["segments"]}) == (0, {2})
    code, [found], err = ottla(shared, "segment", "verify", "--topic", sealed)
    assert (code, found["damaged_segments"], err) == (0, 0, "")
    assert sum(each["records"] for each in found["segments"]) == 3 * RECORDS


def test_the_command_dumps_a_replica_s_batches(shared, sealed):
    for broker in ((), ("--broker", "3")):
        code, batches, _ = ottla(
            shared, "segment", "dump", "--topic", sealed, "--records", "--from", "5", *broker
        )
        assert code == 0
        assert [each["base_offset"] for each in batches] == list(range(5, RECORDS))
        assert [each["records"][0]["value"][:2] for each in batches] == [
            f"{number:02d}" for number in range(5, RECORDS)
        ]
        expected = 3 if broker else shared.leader(sealed)
        assert {each["replica"] for each in batches} == {expected}
    assert ottla(shared, "segment", "dump")[0] == 2
    assert ottla(shared, "segment", "list", "--topic", sealed, "--partition", "4")[0] == 3
    assert ottla(shared, "segment", "list", "--topic", sealed, "--broker", "7")[0] == 3


def test_a_flipped_bit_is_told_with_broker_file_and_offset(shared):
    """In a sealed segment of a follower, while its broker runs."""
    sealed = filled(shared, "segments-flipped")
    leader = shared.leader(sealed)
    replica = shared.others(leader)[0]
    second = listed(shared, sealed, leader, replica=replica).document["segments"][1]
    path = shared.cluster.broker(replica).data_dir / second["file"]
    wanted = f"{second['base_offset']:02d}".encode() + b"v" * 2_000
    content = path.read_bytes()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(content.index(wanted) + 1_000)
        file.write(b"w")
    path.chmod(0o400)
    code, [found], err = ottla(
        shared, "segment", "verify", "--topic", sealed, "--broker", str(replica)
    )
    damaged = [each for each in found["segments"] if each["findings"]]
    assert (code, json.loads(err)["code"]) == (1, "CORRUPT_MESSAGE")
    [finding] = damaged[0]["findings"]
    assert (finding["file"], finding["offset"]) == (second["file"], second["base_offset"])
    assert "CRC-32C" in finding["reason"]
    assert sum(each["records"] for each in found["segments"]) == RECORDS - 1
    [whole] = verified(shared, sealed, replica, replica=leader)
    assert [each["findings"] for each in whole["segments"]] == [[]] * len(whole["segments"])
    # What is served comes from the leader, whose copy is sound.
    code, batches, _ = ottla(shared, "segment", "dump", "--topic", sealed)
    assert (code, len(batches)) == (0, RECORDS)

    def is_healed():
        segments = [each for part in verified(shared, sealed, leader, replica=replica)
                    for each in part["segments"]]  # fmt: skip
        assert all(each["findings"] == [] for each in segments)
        assert sum(each["records"] for each in segments) == RECORDS

    # The broker was told what was found, and fetches it again.
    eventually(is_healed, timeout_s=30)
