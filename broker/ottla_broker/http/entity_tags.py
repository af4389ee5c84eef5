"""Entity tags of reads, conditional requests, and how long an answer may be kept.

The record at an offset never changes, and the records of a range of offsets only become fewer, when
compaction takes some away. So topic, range and the offsets of the records that are left are the
content, on whatever replica and however its batches are cut; no replica has to know how often which
other one has compacted. An unclean election, which may put other records at offsets that there
were, changes every tag of its partition.
"""

import re
from array import array
from hashlib import blake2b
from typing import Final

from ottla_broker.services.record_read import RecordsRead
from ottla_protocol import routes

IMMUTABLE_MAX_AGE_SECONDS: Final = 3_600
"""How long a full page may be shown unasked: so long may a cache go on showing records that were
deleted, or those of a deleted topic whose name is taken again."""

NO_STORE: Final = "no-store"
REVALIDATE: Final = "no-cache"
IMMUTABLE: Final = f"max-age={IMMUTABLE_MAX_AGE_SECONDS}, immutable"

_RENDERING_VERSION: Final = 1
"""To be raised when the same records are rendered otherwise."""

_DIGEST_BYTES: Final = 16
_ENTITY_TAG = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\U0010ffff]*+")')


def entity_tag(
    found: RecordsRead,
    media_type: str,
    *,
    partition: int,
    record_format: str,
    fields: str | None,
    unclean_leader_epoch: int | None,
) -> str:
    """The tag of an answer: strong, but for JSON.

    The JSON document also tells the high watermark and the log start, which move while the records
    stay. An older one is as good, which is what a weak tag says (RFC 9110 section 8.8.1).
    """
    named = (
        _RENDERING_VERSION, found.topic_id, partition, unclean_leader_epoch, media_type,
        record_format, fields, found.offset, found.next_offset, len(found.records),
    )  # fmt: skip
    digest = blake2b(repr(named).encode(errors="surrogatepass"), digest_size=_DIGEST_BYTES)
    digest.update(array("q", [record.offset for record in found.records]).tobytes())
    return f'{"W/" if media_type == routes.JSON else ""}"{digest.hexdigest()}"'


def is_not_modified(if_none_match: str | None, tag: str) -> bool:
    """Whether the client has this very answer: `If-None-Match`, RFC 9110 section 13.1.2."""
    if if_none_match is None:
        return False
    if if_none_match.strip() == "*":
        return True
    opaque = tag.removeprefix("W/")
    return any(known[1] == opaque for known in _ENTITY_TAG.finditer(if_none_match))


def cache_control(
    *, is_full: bool, is_local: bool, is_at_an_offset: bool, is_compacted: bool
) -> str:
    """The Cache-Control of an answer.

    Args:
        is_full: nothing will ever be added to it.
        is_local: it is told from a copy that is not the leader's.
        is_at_an_offset: the URL names an offset, not a place that moves.
        is_compacted: the topic's records may become fewer.
    """
    if not is_full or is_local:
        return NO_STORE
    return IMMUTABLE if is_at_an_offset and not is_compacted else REVALIDATE
