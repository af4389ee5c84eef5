"""A group goes back to a time, in every partition, whoever leads it."""

import pytest

from ottla_protocol import routes
from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster

TIMES = {0: (100, 300, 200, 900), 1: (50, 60), 2: ()}
"""Timestamps of the records of each partition; they go backwards."""


@pytest.fixture
def timed(shared, request):
    """A topic of three partitions with records of TIMES."""
    name = f"timed-{request.node.name}".replace("[", "-").replace("]", "")
    shared.create_topic(name, partitions=3)
    shared.wait_led(name, partitions=3)
    for partition, times in TIMES.items():
        for time in times:
            records = [{"value": time, "timestamp": time}]
            shared.produce(name, records, partition=partition).expect(200)
    return name


def seek(client, group, *, via=None, **fields):
    url = client.any_url() if via is None else client.url(via)
    return client.http.post(url + routes.GROUP_SEEK.format(group=group), fields)


def sought(answer):
    return {each["partition"]: each["offset"] for each in answer.expect(200).document["offsets"]}


@pytest.mark.parametrize("via", [1, 2, 3])
def test_each_partition_goes_to_its_first_record_of_that_time_or_later(shared, timed, via):
    group = f"g-{timed}"

    def seek_to(value, **fields):
        return sought(
            seek(shared, group, via=via, to="timestamp", value=value, topics=[timed], **fields)
        )

    # A topic's offsets are known at every broker soon, not at once.
    assert eventually(lambda: seek_to(0, dry_run=True)) == {0: 0, 1: 0, 2: 0}
    assert seek_to(55) == {0: 0, 1: 1, 2: 0}
    assert seek_to(201) == {0: 1, 1: 2, 2: 0}
    assert seek_to(301) == {0: 3, 1: 2, 2: 0}
    assert seek_to(901) == {0: 4, 1: 2, 2: 0}
    url = shared.any_url() + routes.GROUP_OFFSETS.format(group=group)
    committed = shared.http.get(url).expect(200).document["offsets"]
    assert {each["partition"]: each["offset"] for each in committed} == {0: 4, 1: 2, 2: 0}


@pytest.mark.parametrize("fields", [{}, {"value": -1}])
def test_a_time_is_needed_and_not_negative(shared, topic, fields):
    answer = seek(shared, "g-time", to="timestamp", topics=[topic], **fields).expect(422)
    assert answer.document["field"] == "value"
