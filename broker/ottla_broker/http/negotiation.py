"""Which media type answers a request: proactive negotiation over `Accept`, RFC 9110 section 12.5.1.

A route offers its types in its own order of preference, the first being what a client gets that
says nothing. The client's weights decide; among equals the server's order does, for the order in
which a client lists types means nothing.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final, NamedTuple

from ottla_protocol.errors import NotAcceptableError

MAX_MEDIA_RANGES: Final = 100
"""Ranges of one request that are looked at; a browser sends eight."""

_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# A quoted string may hold commas and semicolons; one that nobody closes reaches to the end. All is
# possessive, so that no field is gone over twice.
_MEMBER = re.compile(r'(?:"(?:[^"\\]|\\.?)*+"?|[^,"])++', re.DOTALL)
_RANGE = re.compile(rf"\s*({_NAME})/({_NAME})\s*(?:;|\Z)")
_PARAMETER = re.compile(rf'\s*(?:({_NAME})=({_NAME}|"(?:[^"\\]|\\.)*+")\s*)?(?:;|\Z)', re.DOTALL)
_WEIGHT = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")


class MediaRange(NamedTuple):
    """One member of an Accept: `*/*`, `text/*` or `text/plain`, in lower case, with its weight.

    `has_parameters` tells of parameters before the weight: such a range asks for a variant that
    no route here offers, so it matches nothing, save `charset=utf-8`, which JSON and text have.
    """

    type: str
    subtype: str
    weight: float
    has_parameters: bool = False

    @property
    def specificity(self) -> int:
        """0 for `*/*`, 1 for `text/*`, 2 for `text/plain`: the most specific range counts."""
        return (self.type != "*") + (self.subtype != "*")

    def matches(self, media_type: str) -> bool:
        """Whether the range includes this type."""
        main, _, sub = media_type.partition("/")
        return not self.has_parameters and self.type in ("*", main) and self.subtype in ("*", sub)


def accept_of(values: Iterable[str]) -> str | None:
    """The fields of one name, Accept or another list, as one (RFC 9110 section 5.3); or None."""
    fields = list(values)
    return ", ".join(fields) if fields else None


def negotiate(accept_header: str | None, offered: Sequence[str]) -> str:
    """The media type to answer with.

    Args:
        accept_header: the Accept field; None or empty accepts everything. Members that break the
            grammar are passed over, as the RFC allows.
        offered: what the route can answer, in lower case and without parameters, best first.

    Returns:
        The one of `offered` with the highest weight; among equals the first.

    Raises:
        NotAcceptableError: the client accepts none of them; member `offered` lists them.
    """
    if accept_header is None or not accept_header.strip():
        return offered[0]
    ranges = parse_accept(accept_header)
    best, best_weight = None, 0.0
    for media_type in offered:
        weight = _weight_of(media_type, ranges)
        if weight > best_weight:
            best, best_weight = media_type, weight
    if best is None:
        raise NotAcceptableError(
            f"Accept takes none of what this call answers: {', '.join(offered)}",
            offered=list(offered),
        )
    return best


def parse_accept(accept_header: str) -> list[MediaRange]:
    """Of the first MAX_MEDIA_RANGES members of the field those that keep to its grammar."""
    ranges: list[MediaRange] = []
    for member in islice(_MEMBER.finditer(accept_header), MAX_MEDIA_RANGES):
        parsed = _parse_range(member[0])
        if parsed is not None:
            ranges.append(parsed)
    return ranges


def _parse_range(member: str) -> MediaRange | None:
    found = _RANGE.match(member)
    if found is None:
        return None
    main, sub = found[1].lower(), found[2].lower()
    if main == "*" and sub != "*":
        return None
    has_parameters = False
    position = found.end()
    while position < len(member):
        parameter = _PARAMETER.match(member, position)
        if parameter is None:
            return None
        position = parameter.end()
        name, value = (parameter[1] or "").lower(), parameter[2]
        if name == "q":
            # What stands behind the weight is an extension that RFC 9110 has given up.
            if _WEIGHT.fullmatch(value) is None:
                return None
            return MediaRange(main, sub, float(value), has_parameters)
        if name and (name, value.strip('"').lower()) != ("charset", "utf-8"):
            has_parameters = True
    return MediaRange(main, sub, 1.0, has_parameters)


def _weight_of(media_type: str, ranges: Sequence[MediaRange]) -> float:
    """The weight of the most specific range that includes the type; 0 where there is none.

    Where a range stands twice the higher weight counts.
    """
    matching = [
        (media_range.specificity, media_range.weight)
        for media_range in ranges
        if media_range.matches(media_type)
    ]
    return max(matching)[1] if matching else 0.0
