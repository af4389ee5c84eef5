"""Requests and responses of restores; the rules are those of `models`."""

from typing import Annotated

import msgspec
from msgspec import Meta

from ottla_protocol.models import Request, Response
from ottla_protocol.models_groups import Offset

MAX_RESTORE_REQUEST_BYTES = 65 << 20
"""The largest body of record batches: room for the largest batch and its envelope."""

RestoreId = Annotated[str, Meta(min_length=1, max_length=64)]
"""Names the backup, so that two restores do not mix in one topic."""


class BeginRestoreRequest(Request, frozen=True):
    """`POST /v1/topics/{topic}/restore`: a topic that only this restore fills.

    Nobody reads it yet. `first_offsets` has an entry for each partition: where its log begins.
    Begun again with the same values, nothing changes. What is left out takes the broker's default.
    """

    restore_id: RestoreId
    first_offsets: list[Offset]
    replication_factor: int | None = None
    configs: dict[str, str | int | float | bool] = msgspec.field(default_factory=dict)


class RestoreRecordsRequest(Request, frozen=True):
    """`POST …/partitions/{partition}/restore`: record batches at the offsets that they have.

    `position` is where the backup's records that precede these end: below it everything must be
    there already, so that no hole is left. Offsets may be missing between the batches. No batches
    only ask how far the partition is.
    """

    restore_id: RestoreId
    position: Offset
    batches: list[memoryview]


class RestoredPosition(Response, frozen=True):
    """Where the partition ends now: everything below is committed. The restore goes on there."""

    topic: str
    partition: int
    next_offset: int


class FinishRestoreRequest(Request, frozen=True):
    """`POST /v1/topics/{topic}/restore/finish`: everybody may read and write the topic now."""

    restore_id: RestoreId


class FinishedRestore(Response, frozen=True):
    """The topic is one like any other."""

    topic: str
    topic_id: str
