"""`/v3/clusters/{cluster}/consumer-groups`: groups, their members, and how far they are."""

from aiohttp import web

from ottla_broker.http.context import context_of
from ottla_broker.http.query import partition_number
from ottla_broker.http.rest_v3 import resources
from ottla_broker.http.rest_v3.requests import begun, rendered
from ottla_protocol.errors import NotFoundError
from ottla_protocol.models_groups import GroupDescription, GroupMemberDescription


async def _group(request: web.Request) -> GroupDescription:
    return await context_of(request).groups.describe(request.match_info["group"])


def _member(request: web.Request, group: GroupDescription) -> GroupMemberDescription:
    wanted = request.match_info["consumer"]
    for member in group.members:
        if member.member_id == wanted:
            return member
    raise NotFoundError(f"the group {group.group!r} has no member {wanted!r}")


async def list_groups(request: web.Request) -> web.Response:
    """`GET …/consumer-groups`."""
    links, _ = begun(request)
    groups = [
        resources.group(links, listing, coordinator)
        for listing, coordinator in await context_of(request).groups.listings()
    ]
    return rendered(resources.listed("KafkaConsumerGroup", links, ("consumer-groups",), groups))


async def describe_group(request: web.Request) -> web.Response:
    """`GET …/consumer-groups/{group}`."""
    links, _ = begun(request)
    found = await _group(request)
    return rendered(resources.group(links, found, found.coordinator))


async def list_consumers(request: web.Request) -> web.Response:
    """`GET …/consumer-groups/{group}/consumers`."""
    links, _ = begun(request)
    found = await _group(request)
    consumers = [resources.consumer(links, found.group, member) for member in found.members]
    path = ("consumer-groups", found.group, "consumers")
    return rendered(resources.listed("KafkaConsumer", links, path, consumers))


async def describe_consumer(request: web.Request) -> web.Response:
    """`GET …/consumers/{consumer}`."""
    links, _ = begun(request)
    found = await _group(request)
    return rendered(resources.consumer(links, found.group, _member(request, found)))


async def list_assignments(request: web.Request) -> web.Response:
    """`GET …/consumers/{consumer}/assignments`."""
    links, _ = begun(request)
    found = await _group(request)
    member = _member(request, found)
    assigned = resources.assignments(links, found.group, member)
    path = ("consumer-groups", found.group, "consumers", member.member_id, "assignments")
    return rendered(resources.listed("KafkaConsumerAssignment", links, path, assigned))


async def describe_assignment(request: web.Request) -> web.Response:
    """`GET …/assignments/{topic}/partitions/{partition}`."""
    links, _ = begun(request)
    wanted = _wanted_partition(request)
    found = await _group(request)
    member = _member(request, found)
    for each in resources.assignments(links, found.group, member):
        if (each.topic_name, each.partition_id) == wanted:
            return rendered(each)
    raise NotFoundError(f"the member does not read {wanted[0]}-{wanted[1]}")


async def list_lags(request: web.Request) -> web.Response:
    """`GET …/consumer-groups/{group}/lags`: of every partition that it has committed."""
    links, _ = begun(request)
    found = await _group(request)
    path = ("consumer-groups", found.group, "lags")
    return rendered(resources.listed("KafkaConsumerLag", links, path, resources.lags(links, found)))


async def describe_lag(request: web.Request) -> web.Response:
    """`GET …/lags/{topic}/partitions/{partition}`."""
    links, _ = begun(request)
    wanted = _wanted_partition(request)
    for each in resources.lags(links, await _group(request)):
        if (each.topic_name, each.partition_id) == wanted:
            return rendered(each)
    raise NotFoundError(f"the group has committed nothing in {wanted[0]}-{wanted[1]}")


async def describe_lag_summary(request: web.Request) -> web.Response:
    """`GET …/consumer-groups/{group}/lag-summary`."""
    links, _ = begun(request)
    found = await _group(request)
    return rendered(resources.lag_summary(links, found.group, resources.lags(links, found)))


def _wanted_partition(request: web.Request) -> tuple[str, int]:
    return request.match_info["topic"], partition_number(request.match_info["partition"])
