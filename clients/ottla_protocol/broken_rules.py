"""Why a body could not be decoded: the field and its rule, or where the JSON ends. Pure.

msgspec speaks of types ("Expected `int | null`, got `str` - at `$.partitions`"). People who send
JSON are told of fields and of what may stand in them.
"""

import re
from dataclasses import dataclass
from typing import Any, Final, get_args

import msgspec

from ottla_protocol.counted_nouns import counted

BODY: Final = "the body"
"""What is named where no field of it is wrong, but all of it."""

_LOCATED = re.compile(r"(?P<rule>.*) - at `(?:key` in `)?\$\.?(?P<path>.*)`", re.DOTALL)
_TYPE = re.compile(r"Expected `(?P<expected>[^`]*)`, got `(?P<found>[^`]*)`")
_BOUND = re.compile(r"Expected `(?:int|float)` (?P<relation>[<>]=?) (?P<bound>\S+)")
_MULTIPLE = re.compile(r"Expected `(?:int|float)` that's a multiple of (?P<factor>\S+)")
_LENGTH = re.compile(r"Expected `(?P<type>\w+)` of length (?P<relation>[<>]=)? ?(?P<length>\d+)")
_PATTERN = re.compile(r"Expected `str` matching regex (?P<pattern>.*)", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<field>[^`]*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>.*)`", re.DOTALL)
_CHOICE = re.compile(r"Invalid enum value (?P<found>.*)", re.DOTALL)

_TYPES: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bytes": "text in base64",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
    "datetime": "a time",
}
_RELATIONS: Final = {">=": "at least", ">": "more than", "<=": "at most", "<": "less than"}
_PARTS: Final = {
    "str": ("character", "characters"),
    "array": ("entry", "entries"),
    "object": ("member", "members"),
    "bytes": ("byte", "bytes"),
}
_FORMATS: Final = {
    "Invalid base64 encoded string": "must be base64 (RFC 4648 section 4)",
    "Invalid RFC3339 encoded datetime": "must be a time as RFC 3339 has it",
    "Expected `datetime` with a timezone component": "must tell its time zone",
    "Integer value out of range": "must be a number of at most 64 bits",
    "Number out of range": "must be a number of at most 64 bits",
}


@dataclass(frozen=True, slots=True)
class BrokenRule:
    """A field and its rule.

    Attributes:
        field: its path in the body, such as `offsets[2].partition`; BODY for all of it.
        rule: what goes on behind the field's name: `must be text, not a whole number`.
    """

    field: str
    rule: str

    def __str__(self) -> str:
        return f"{self.field} {self.rule}"


def broken_rule(error: msgspec.ValidationError, model: Any = None) -> BrokenRule:
    """What msgspec's error tells.

    Args:
        error: of decoding.
        model: the struct that was decoded into; its fields and choices are told where that helps.
    """
    message, path = str(error), ""
    located = _LOCATED.fullmatch(message)
    if located is not None:
        message, path = located["rule"], located["path"].replace("[...]", "[]")
    missing = _MISSING.fullmatch(message)
    if missing is not None:
        return BrokenRule(_below(path, missing["field"]), "is missing")
    unknown = _UNKNOWN.fullmatch(message)
    if unknown is not None:
        return BrokenRule(_below(path, unknown["field"]), _unknown(None if path else model))
    return BrokenRule(path or BODY, _rule(message, path, model))


def malformation(body: bytes | bytearray, error: msgspec.DecodeError | UnicodeDecodeError) -> str:
    """Why a body is no JSON, and where."""
    if isinstance(error, UnicodeDecodeError):
        return "JSON is malformed: a text in it is no UTF-8"
    if not body:
        return "the body is empty; it must be JSON"
    if "truncated" in str(error):
        return f"JSON is malformed: it ends too early (byte {len(body)})"
    return str(error)


def _below(path: str, field: str) -> str:
    return f"{path}.{field}" if path else field


def _unknown(model: Any) -> str:
    if model is None:
        return "is no field that there is"
    names = ", ".join(each.encode_name for each in msgspec.structs.fields(model))
    return f"is no field of this call, which takes: {names}"


def _rule(message: str, path: str, model: Any) -> str:
    found = _TYPE.fullmatch(message)
    if found is not None:
        expected = [_TYPES.get(name, name) for name in found["expected"].split(" | ")]
        told = "a fraction" if found["found"] == "float" else _TYPES.get(found["found"])
        return f"must be {' or '.join(expected)}, not {told or found['found']}"
    found = _BOUND.fullmatch(message)
    if found is not None:
        return f"must be {_RELATIONS[found['relation']]} {found['bound']}"
    found = _MULTIPLE.fullmatch(message)
    if found is not None:
        return f"must be a multiple of {found['factor']}"
    found = _LENGTH.fullmatch(message)
    if found is not None:
        how_many = _RELATIONS.get(found["relation"] or "", "exactly")
        part = _PARTS.get(found["type"], ("part", "parts"))
        return f"must have {how_many} {counted(int(found['length']), *part)}"
    found = _PATTERN.fullmatch(message)
    if found is not None:
        return f"must match the pattern {found['pattern']}"
    found = _CHOICE.fullmatch(message)
    if found is not None:
        choices = ", ".join(map(str, _choices(path, model)))
        return f"must be {f'one of {choices}' if choices else 'another word'}, not {found['found']}"
    return _FORMATS.get(message, f"breaks a rule: {message}")


def _choices(path: str, model: Any) -> tuple[Any, ...]:
    """The words that a field of the model itself takes."""
    if model is None:
        return ()
    for field in msgspec.structs.fields(model):
        if field.encode_name == path:
            return tuple(
                word
                for choice in get_args(field.type)
                for word in (get_args(choice) or (choice,))
                if isinstance(word, str | int)
            )
    return ()
