"""Responses about brokers that leave the cluster: drains and their progress."""

from ottla_protocol.models import Response


class BlockedMove(Response, frozen=True):
    """A partition that has to leave the broker and cannot: `detail` tells what it waits for."""

    topic: str
    partition: int
    detail: str


class DrainProgress(Response, frozen=True):
    """`GET`, `POST` and `DELETE /v1/brokers/{broker}/drain`.

    `state` is `none`, `draining` or `drained`. Of `partitions_at_start` that had a replica on the
    broker when the drain began (None without a drain), `partitions_left` still have one;
    `partitions_moving` of those are on their way, a few at a time. `blocked` names some that cannot
    begin, or cannot go on, as things are: what nobody leads, or what waits for a broker.
    """

    broker: int
    state: str
    partitions_left: int
    partitions_moving: int
    partitions_at_start: int | None = None
    blocked: list[BlockedMove] = []  # noqa: RUF012  a default of msgspec's is copied
