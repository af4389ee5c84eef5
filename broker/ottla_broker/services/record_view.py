"""How records look to a reader who wants them as JSON: `format`, and `fields` of them alone.

    fields=offset,key,value.origin,value.air.time
    {"offset":7,"key":"N14228","value":{"origin":"EWR","air":{"time":227}}}

Members of the value keep their text as it was sent: they are cut out, never parsed and printed.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw

from ottla_protocol.errors import InvalidRequestError
from ottla_protocol.json_records import (
    RecordFormat,
    render_lines,
    render_record,
    render_records,
    render_texts,
)
from ottla_protocol.record_codec import Record

FIELDS: Final = ("offset", "timestamp", "key", "value", "headers")
"""The fields of a record that can be asked for."""

MAX_FIELDS: Final = 100
MAX_FIELDS_CHARACTERS: Final = 2_000
MAX_FIELD_DEPTH: Final = 20
"""Names in one member's path."""

_RENDERED: Final = {
    "offset": ("offset",),
    "timestamp": ("timestamp",),
    "key": ("key", "key_b64"),
    "value": ("value", "value_text", "value_b64"),
    "headers": ("headers",),
}
_Members = dict[str, "_Members | None"]
_encoder = msgspec.json.Encoder()
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode


class RecordView:
    """Renders records as a reader asked. It may be used from any thread.

    Args:
        record_format: how keys and values are told.
        fields: the names of FIELDS and `value.NAME`, in any depth, separated by commas; None for
            all. A name with a dot or a comma cannot be asked for on its own.

    Raises:
        InvalidRequestError: a field is unknown, or `fields` is over a limit.
    """

    def __init__(self, record_format: RecordFormat = "auto", fields: str | None = None) -> None:
        self.record_format = record_format
        self.fields = fields
        self._members: _Members = {}
        self._names: tuple[str, ...] = ()
        if fields is not None:
            self._read_fields(fields)

    def _read_fields(self, fields: str) -> None:
        wanted: set[str] = set()
        asked = fields.split(",", MAX_FIELDS)
        if len(asked) > MAX_FIELDS or len(fields) > MAX_FIELDS_CHARACTERS:
            raise _refused(
                f"fields takes at most {MAX_FIELDS} names and {MAX_FIELDS_CHARACTERS} characters"
            )
        for field in asked:
            name, *path = field.split(".", MAX_FIELD_DEPTH + 1)
            if name not in FIELDS or (path and name != "value") or not all(path):
                raise _refused(
                    f"fields takes {', '.join(FIELDS)} and members of the value as value.NAME, "
                    f"not '{field}'"
                )
            if len(path) > MAX_FIELD_DEPTH:
                raise _refused(f"fields: '{field}' has more than {MAX_FIELD_DEPTH} names")
            if path:
                _add_path(self._members, path)
            else:
                wanted.add(name)
        if "value" in wanted:
            self._members = {}
        elif self._members:
            wanted.add("value")
            if self.record_format not in ("auto", "json"):
                raise _refused("fields: members of the value need format auto or json")
        self._names = tuple(
            name for field in FIELDS if field in wanted for name in _RENDERED[field]
        )

    def array(
        self, records: Sequence[Record], *, topic: str | None = None, partition: int | None = None
    ) -> bytes:
        """One JSON array.

        Args:
            records: what to render.
            topic: told beside each record where records of several topics stand together.
            partition: told beside each record where records of several partitions do.

        Raises:
            InvalidRequestError: the format is `json` and a value is not.
        """
        if self.fields is None:
            return render_records(records, self.record_format, topic=topic, partition=partition)
        return _encoder.encode(list(self._projections(records, topic, partition)))

    def lines(
        self, records: Sequence[Record], *, topic: str | None = None, partition: int | None = None
    ) -> bytes:
        """NDJSON, each line ended; otherwise as `array`."""
        if self.fields is None:
            return render_lines(records, self.record_format, topic=topic, partition=partition)
        return _encoder.encode_lines(list(self._projections(records, topic, partition)))

    def texts(self, records: Sequence[Record], *, partition: int | None = None) -> list[bytes]:
        """Each record as JSON by itself; otherwise as `array`."""
        if self.fields is None:
            return render_texts(records, self.record_format, partition=partition)
        return [_encoder.encode(each) for each in self._projections(records, None, partition)]

    def _projections(
        self, records: Sequence[Record], topic: str | None, partition: int | None
    ) -> Iterator[dict[str, Any]]:
        place: dict[str, Any] = {} if topic is None else {"topic": topic}
        if partition is not None:
            place["partition"] = partition
        has_key, has_value = "key" in self._names, "value" in self._names
        for record in records:
            value = record.value if has_value else None
            has_members = True
            if self._members and value is not None:
                picked = _pick(value, self._members)
                has_members = picked is not None
                value = picked
            rendered = render_record(
                Record(
                    record.offset,
                    record.timestamp,
                    record.key if has_key else None,
                    value,
                    record.headers,
                ),
                self.record_format,
            )
            yield place | {
                name: told
                for name in self._names
                if (told := getattr(rendered, name)) is not UNSET
                and (has_members or name != "value")
            }


def _refused(rule: str) -> InvalidRequestError:
    return InvalidRequestError(rule, parameter="fields")


def _add_path(members: _Members, path: Sequence[str]) -> None:
    """Ask for the member at the path; all of it where a part of it is asked for as well."""
    *parents, last = path
    for name in parents:
        inner = members.setdefault(name, {})
        if inner is None:
            return
        members = inner
    members[last] = None


def _pick(value: bytes, members: _Members) -> bytes | None:
    """The members of a JSON object as one of their own; None where the value is no object."""
    try:
        found = _decode_members(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    picked: dict[str, Raw] = {}
    for name, inner in members.items():
        text = found.get(name)
        if text is not None and inner is not None:
            part = _pick(bytes(text), inner)
            text = None if part is None else Raw(part)
        if text is not None:
            picked[name] = text
    return _encoder.encode(picked)
