"""Request bodies of JSON as their models, and what is told of one that is none.

Pure. Records have a parser of their own, `ottla_protocol.json_records`.
"""

import re
from typing import Final, TypeVar, get_args

import msgspec

from ottla_protocol.errors import InvalidRequestError, MalformedBodyError

RequestT = TypeVar("RequestT", bound=msgspec.Struct)

_INVALID_CHOICE: Final = re.compile(r"Invalid enum value .* - at `\$\.(?P<field>\w+)`", re.DOTALL)
_UNKNOWN_FIELD: Final = re.compile(r"Object contains unknown field `[^`]*`", re.DOTALL)
"""Of the body itself: msgspec says where it is deeper."""


def parse_json(body: bytes | bytearray, model: type[RequestT]) -> RequestT:
    """A request body as its model.

    Raises:
        MalformedBodyError: no JSON; the detail gives the position.
        InvalidRequestError: a field is missing, unknown or of the wrong type; the detail names it.
    """
    try:
        return msgspec.json.decode(body, type=model)
    except msgspec.DecodeError as error:
        raise refusal(body, model, error) from error


def refusal(
    body: bytes | bytearray, model: type[msgspec.Struct], error: msgspec.DecodeError
) -> InvalidRequestError | MalformedBodyError:
    """What a client is told of a body that msgspec could not decode as `model`."""
    if isinstance(error, msgspec.ValidationError):
        return InvalidRequestError(_explanation(str(error), model))
    if not body:
        return MalformedBodyError("the body is empty; it must be a JSON object")
    if "truncated" in str(error):
        return MalformedBodyError(f"JSON is malformed: it ends too early (byte {len(body)})")
    return MalformedBodyError(str(error))


def _explanation(message: str, model: type[msgspec.Struct]) -> str:
    """What msgspec tells, and which fields there are, or which words a field takes."""
    fields = msgspec.structs.fields(model)
    if _UNKNOWN_FIELD.fullmatch(message):
        return f"{message}; this call takes: {', '.join(each.encode_name for each in fields)}"
    found = _INVALID_CHOICE.fullmatch(message)
    if found is None:
        return message
    choices = [
        repr(choice)
        for field in fields
        if field.encode_name == found["field"]
        for choice in get_args(field.type)
    ]
    return f"{message}; it is one of {', '.join(choices)}" if choices else message
