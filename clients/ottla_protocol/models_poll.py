"""The request and response of `POST /v1/groups/{group}/poll`; the rules are those of `models`."""

from typing import Annotated, Literal

from msgspec import Meta

from ottla_protocol.json_records import RenderedRecord
from ottla_protocol.models import MAX_WAIT_MS, Isolation, Request, Response
from ottla_protocol.models_groups import Count

MAX_POLL_RECORDS = 10_000
"""The most records that one poll may ask for."""

MAX_ACK_CHARACTERS = 512 << 10
"""The longest `ack`; that of the largest poll is shorter."""

DEFAULT_POLL_SESSION_TIMEOUT_MS = 30_000
"""How long a member that polls may stay away between two polls, unless it says otherwise."""


class GroupPollRequest(Request, frozen=True):
    """Join or stay, say what is done, and get more: exactly one of `topics` and `pattern`.

    `ack` is that of the last answer: it commits what that answer had. A poll without it gets the
    same records again. Without `member_id` the poll makes a new member.
    """

    topics: list[str] | None = None
    pattern: str | None = None
    member_id: str | None = None
    ack: Annotated[str, Meta(max_length=MAX_ACK_CHARACTERS)] | None = None
    max_records: Annotated[int, Meta(ge=1, le=MAX_POLL_RECORDS)] = 500
    max_wait_ms: Annotated[int, Meta(ge=0, le=MAX_WAIT_MS)] = 500
    session_timeout_ms: Count = DEFAULT_POLL_SESSION_TIMEOUT_MS
    assignor: str | None = None
    auto_offset_reset: Literal["earliest", "latest", "none"] = "earliest"
    """Where to begin in a partition whose committed offset is missing or out of range."""
    format: Literal["auto", "json", "text", "base64"] = "auto"
    isolation: Isolation = "read_uncommitted"


class GroupPollResponse(Response, frozen=True):
    """Records of several partitions, those of each in the order of their offsets.

    `ack` is None where there is nothing to acknowledge. There may be without records: what readers
    are not shown was passed over.
    """

    member_id: str
    generation: int
    records: list[RenderedRecord]
    ack: str | None
