"""The API's media types: which embedded format a body or a reader has.

`application/vnd.kafka.json.v2+json` is a JSON document with keys and values in the format `json`;
without a format it is `binary`. Plain `application/json` is taken as that too, as Karapace does.
"""

from collections.abc import Sequence
from typing import Final

from ottla_broker.http.negotiation import negotiate
from ottla_broker.http.rest_v2.errors import V2_JSON, FormatMismatchError
from ottla_protocol import routes
from ottla_protocol.errors import NotAcceptableError, UnsupportedMediaTypeError

BINARY: Final = "binary"
JSON: Final = "json"
FORMATS: Final = (BINARY, JSON)
"""What keys and values may be told in."""

SCHEMA_FORMATS: Final = ("avro", "jsonschema", "protobuf")
"""Formats of the API that need a schema registry, which Ottla has not got."""

_PREFIX, _SUFFIX = "application/vnd.kafka.", ".v2+json"
PLAIN_TYPES: Final = (V2_JSON, routes.JSON)
"""What carries no keys and values, or those in the default format."""

# curl sends the first where -d is given without a header, and the second comes from nobody but
# clients that name no type at all.
_UNTOLD_TYPES = ("application/x-www-form-urlencoded", routes.OCTET_STREAM)


def media_type_of(embedded_format: str) -> str:
    """The media type of a document with records in a format."""
    return f"{_PREFIX}{embedded_format}{_SUFFIX}"


def embedded_format(content_type: str) -> str:
    """The format of the records in a body of this Content-Type.

    Raises:
        UnsupportedMediaTypeError: it is none of the API's types; `accepted` lists them.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in PLAIN_TYPES or media_type in _UNTOLD_TYPES or not media_type:
        return BINARY
    for known in (*FORMATS, *SCHEMA_FORMATS):
        if media_type == media_type_of(known):
            return known
    accepted = [*PLAIN_TYPES, *map(media_type_of, FORMATS)]
    raise UnsupportedMediaTypeError(
        f"Content-Type '{media_type}' is none of: {', '.join(accepted)}", accepted=accepted
    )


def check_document_type(content_type: str) -> None:
    """Refuse a body without records that is not said to be JSON.

    Raises:
        UnsupportedMediaTypeError: see `embedded_format`.
    """
    embedded_format(content_type)


def answer_type(accept: str | None) -> str:
    """The media type of an answer without records.

    Raises:
        NotAcceptableError: the client takes none of them.
    """
    return negotiate(accept, PLAIN_TYPES)


def records_type(accept: str | None, instance_format: str) -> str:
    """The media type of an answer with records of an instance's format.

    Raises:
        FormatMismatchError: the client takes another format only; `application/vnd.kafka.v2+json`
            names `binary`.
    """
    own = media_type_of(instance_format)
    offered: Sequence[str] = (own, V2_JSON) if instance_format == BINARY else (own,)
    try:
        return negotiate(accept, (*offered, routes.JSON))
    except NotAcceptableError as error:
        raise FormatMismatchError(
            f"The consumer instance has the format {instance_format}, that is {own}, and Accept "
            "takes none of it."
        ) from error
