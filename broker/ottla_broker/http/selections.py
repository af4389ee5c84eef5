"""What a read may say of the records that it wants, whatever the media type that it wants them in.

`selection_of(query)` turns the parameters SELECTION_PARAMETERS into a filter and a view. A reader
then does, on a worker thread where there are many records (`heavy_work.on_worker`):

    found = records if selection.filter is None else selection.filter.select(records)
    body = selection.view.lines(found)            # or `array`; `partition=` where there are several

and goes on behind what it examined, not behind what it found.
"""

from typing import Final, NamedTuple, cast

from ottla_broker.http.query import Query
from ottla_broker.services.json_predicate import JsonPredicate
from ottla_broker.services.record_filter import RecordFilter
from ottla_broker.services.record_view import RecordView
from ottla_protocol.errors import InvalidRequestError
from ottla_protocol.json_records import RecordFormat

SELECTION_PARAMETERS: Final = ("format", "fields", "key", "key_prefix", "where")
"""The query parameters that `selection_of` looks at."""

FORMATS: Final = ("auto", "json", "text", "base64")

MAX_KEY_CHARACTERS: Final = 2_000
"""The longest `key` and `key_prefix`."""

_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


class Selection(NamedTuple):
    """Which records are wanted, None for all; and how they are to look."""

    filter: RecordFilter | None
    view: RecordView


def selection_of(query: Query) -> Selection:
    """The selection that a request asks for.

    Raises:
        InvalidRequestError: a parameter breaks its rule.
    """
    record_format = cast(RecordFormat, query.choice("format", "auto", FORMATS))
    view = RecordView(record_format, query.text("fields"))
    key, key_prefix, where = (_key(query, "key"), _key(query, "key_prefix"), query.text("where"))
    if key is None and key_prefix is None and where is None:
        return Selection(None, view)
    predicate = None if where is None else JsonPredicate(where)
    return Selection(RecordFilter(key, key_prefix, predicate), view)


def _key(query: Query, name: str) -> bytes | None:
    text = query.text(name)
    if text is None:
        return None
    if len(text) > MAX_KEY_CHARACTERS:
        raise InvalidRequestError(
            f"{name} has {len(text)} characters, at most {MAX_KEY_CHARACTERS} are taken",
            parameter=name,
        )
    if _REPLACEMENT in text:
        # What the query's decoder makes of other bytes: no record has a key with these.
        raise InvalidRequestError(f"{name} must be UTF-8", parameter=name)
    return text.encode(errors="surrogateescape")
