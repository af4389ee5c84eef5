"""One record as an HTTP answer: the value is the body, the rest stands in header fields.

Keys, and names and values of headers, may be any bytes, and a field may not (RFC 9110 section 5.5):
a line end in one would begin another field. So all but visible ASCII, and the percent sign, are
percent-encoded (RFC 3986 section 2.1): JavaScript's `decodeURIComponent` gives the text back.
"""

from typing import Final
from urllib.parse import quote

from ottla_protocol import routes
from ottla_protocol.errors import NotAcceptableError
from ottla_protocol.record_codec import Record

MAX_FIELDS_BYTES: Final = 7 << 10
"""What the key and the headers of one record may take as fields: many clients and proxies take 8
KiB of them, in a field or in all."""

MAX_FIELDS: Final = 64
"""Fields of one record; some clients take a hundred in all."""

_VISIBLE: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")
_TOKEN: Final = "!#$&'*+-.^_`|~"  # noqa: S105  the characters of RFC 9110's token, but for %


def record_fields(record: Record) -> list[tuple[str, str]]:
    """The header fields of one record.

    A header without a value has an empty one, and a tombstone says so: its body is empty too.

    Raises:
        NotAcceptableError: they are over MAX_FIELDS or MAX_FIELDS_BYTES; JSON has no such bound.
    """
    fields = [
        (routes.HEADER_OFFSET, str(record.offset)),
        (routes.HEADER_TIMESTAMP, str(record.timestamp)),
    ]
    if record.key is not None:
        fields.append((routes.HEADER_KEY, quote(record.key, safe=_VISIBLE)))
    if record.value is None:
        fields.append((routes.HEADER_TOMBSTONE, "true"))
    for name, value in record.headers:
        encoded_name = quote(name, safe=_TOKEN, errors="surrogatepass")
        encoded = quote(value or b"", safe=_VISIBLE)
        fields.append((f"{routes.HEADER_RECORD_PREFIX}{encoded_name}", encoded))
    size_bytes = sum(len(name) + len(value) for name, value in fields)
    if len(fields) > MAX_FIELDS or size_bytes > MAX_FIELDS_BYTES:
        raise NotAcceptableError(
            f"key and headers of the record at offset {record.offset} take more than {MAX_FIELDS} "
            f"header fields or {MAX_FIELDS_BYTES} bytes of them; read it as {routes.JSON}",
            offered=[routes.JSON, routes.NDJSON],
            offset=record.offset,
        )
    return fields
