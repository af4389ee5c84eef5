"""Request bodies of JSON as their models, and what is told of one that is none.

Pure. Records have a parser of their own, `ottla_protocol.json_records`.
"""

from typing import Final, TypeVar

import msgspec

from ottla_broker.http.post import media_type_of
from ottla_protocol import routes
from ottla_protocol.broken_rules import broken_rule, malformation
from ottla_protocol.errors import (
    InvalidRequestError,
    MalformedBodyError,
    UnsupportedMediaTypeError,
)

RequestT = TypeVar("RequestT", bound=msgspec.Struct)

FORM: Final = "application/x-www-form-urlencoded"
"""What curl calls the body of -d, whatever it is."""

_JSON_TYPES = frozenset({routes.JSON, FORM})


def require_json(content_type: str | None) -> None:
    """Refuse a body that is said to be something else than JSON.

    One of which nothing is said is taken for JSON, and so is a form: `curl -d` calls each body so.

    Raises:
        UnsupportedMediaTypeError: it is another type; the detail names the right one.
    """
    if content_type is None:
        return
    media_type = media_type_of(content_type)
    if media_type not in _JSON_TYPES:
        raise UnsupportedMediaTypeError(
            f"Content-Type '{media_type}' is not {routes.JSON}, which this call takes",
            accepted=[routes.JSON],
        )


def parse_json(
    body: bytes | bytearray, model: type[RequestT], content_type: str | None = None
) -> RequestT:
    """A request body as its model.

    Args:
        body: as it was sent.
        model: what it is to be.
        content_type: what the request says of it; None where it says nothing.

    Raises:
        UnsupportedMediaTypeError: it is said to be no JSON.
        MalformedBodyError: no JSON; the detail gives the position.
        InvalidRequestError: a field is missing, unknown or of the wrong type; the detail names it.
    """
    return decode_json(body, msgspec.json.Decoder(model), content_type)


def decode_json(
    body: bytes | bytearray, decoder: "msgspec.json.Decoder[RequestT]", content_type: str | None
) -> RequestT:
    """As `parse_json`, with a decoder that is kept."""
    if body:
        require_json(content_type)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        broken = broken_rule(error, decoder.type)
        raise InvalidRequestError(str(broken), field=broken.field) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedBodyError(malformation(body, error)) from error
