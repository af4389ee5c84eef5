"""Errors, links and lags as the REST Proxy API, version 3, tells them."""

import msgspec
import pytest

from ottla_broker.http.rest_v3 import resources
from ottla_broker.http.rest_v3.errors import item_error, rest_code, rest_error
from ottla_broker.http.rest_v3.links import Links
from ottla_protocol import errors
from ottla_protocol.errors import ERRORS_BY_CODE, NotFoundError, OffsetNotAvailableError, Outcome
from ottla_protocol.models import TopicConfigs, TopicConfigValue
from ottla_protocol.models_groups import GroupDescription, GroupMemberDescription, PartitionLag

LINKS = Links("http://broker:7101", "local")
CLUSTER_URL = "http://broker:7101/v3/clusters/local"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.UnknownTopicOrPartitionError, (404, 40403)),
        (errors.GroupIdNotFoundError, (404, 40405)),
        (errors.NotFoundError, (404, 404)),
        (errors.MalformedBodyError, (400, 400)),
        (errors.InvalidRequestError, (422, 422)),
        (errors.InvalidConfigError, (400, 40002)),
        (errors.InvalidPartitionsError, (400, 40002)),
        (errors.TopicAlreadyExistsError, (400, 40002)),
        (errors.MessageTooLargeError, (413, 413)),
        (errors.UnsupportedMediaTypeError, (415, 415)),
        (errors.MethodNotAllowedError, (405, 405)),
        (errors.LeaderNotAvailableError, (503, 50003)),
        (errors.InsufficientStorageError, (507, 50003)),
        (errors.RequestTimedOutError, (504, 50003)),
        (errors.NotEnoughReplicasError, (503, 50003)),
        (errors.NonEmptyGroupError, (409, 409)),
        (errors.InternalError, (500, 50002)),
    ],
)
def test_known_errors_have_the_codes_that_clients_know(error, expected):
    assert rest_code(error("x")) == expected


@pytest.mark.parametrize("error", ERRORS_BY_CODE.values())
def test_every_error_has_a_code_and_says_what_became_of_a_write(error):
    told = rest_error(error("broken", outcome=Outcome.UNKNOWN))
    assert told.message == f"broken ({error.code}, unknown)"
    item = item_error(error("broken"))
    assert 400 <= item.error_code <= 599
    assert item.message.endswith(f"broken ({error.code})")


def test_an_item_has_the_status_and_the_longer_code_in_its_message():
    item = item_error(errors.InvalidRequestError("value.type is 'AVRO'"))
    assert item.error_code == 422
    assert item.message == "42206: value.type is 'AVRO' (INVALID_REQUEST)"


def test_links_quote_what_a_name_may_hold():
    metadata = LINKS.metadata("consumer-groups", "a b/ü?", "lags", "t", "partitions", 1)
    assert metadata.self_url == (
        f"{CLUSTER_URL}/consumer-groups/a%20b%2F%C3%BC%3F/lags/t/partitions/1"
    )
    assert metadata.resource_name == ("crn:///kafka=local/consumer-group=a b/ü?/lag=t/partition=1")
    assert LINKS.metadata("consumer-groups", "g", "lag-summary").resource_name == (
        "crn:///kafka=local/consumer-group=g/lag-summary"
    )
    assert msgspec.to_builtins(LINKS.metadata()) == {
        "self": CLUSTER_URL,
        "resource_name": "crn:///kafka=local",
    }


def group(*offsets):
    member = GroupMemberDescription("m-1", "worker", 4, ["flights"], None, [], [], 30_000)
    return GroupDescription("g", "stable", 2, 4, "range", [member], list(offsets))


def lag(partition, committed, end, member_id="m-1"):
    behind = None if committed is None or end is None else end - committed
    return PartitionLag("flights", partition, committed, end, behind, member_id, "")


def test_lags_name_their_members_and_leave_out_what_was_never_committed():
    found = resources.lags(LINKS, group(lag(0, 5, 9), lag(1, None, 9), lag(2, 1, 8, None)))
    assert [
        (each.partition_id, each.current_offset, each.log_end_offset, each.lag,
         each.consumer_id, each.instance_id)
        for each in found
    ] == [(0, 5, 9, 4, "m-1", "worker"), (2, 1, 8, 7, "", None)]  # fmt: skip
    summary = resources.lag_summary(LINKS, "g", found)
    assert (summary.max_lag, summary.total_lag, summary.max_lag_partition_id) == (7, 11, 2)
    assert summary.max_lag_partition.related == f"{CLUSTER_URL}/topics/flights/partitions/2"
    # Nobody reads that partition: a link to a member without a name would lead nowhere.
    consumers = f"{CLUSTER_URL}/consumer-groups/g/consumers"
    assert summary.max_lag_consumer.related == consumers
    summary = resources.lag_summary(LINKS, "g", found[:1])
    assert summary.max_lag_consumer.related == f"{consumers}/m-1"


def test_a_lag_that_nobody_knows_is_not_told_as_none():
    with pytest.raises(OffsetNotAvailableError):
        resources.lags(LINKS, group(lag(0, 5, None)))


def test_a_group_without_commits_has_no_lag_summary():
    with pytest.raises(NotFoundError):
        resources.lag_summary(LINKS, "g", resources.lags(LINKS, group(lag(0, None, 9))))


def test_the_configs_that_operators_set_on_internal_topics_are_not_read_only():
    def read_only(topic):
        values = {name: TopicConfigValue(1, "topic") for name in ("min.insync.replicas", "x")}
        found = resources.topic_configs(LINKS, TopicConfigs(topic, values))
        return {each.name: each.is_read_only for each in found}

    assert read_only("orders") == {"min.insync.replicas": False, "x": False}
    assert read_only("__consumer_offsets") == {"min.insync.replicas": False, "x": True}
