"""Keys, values and headers in forms that other programs take."""

from typing import Any

from ottla_protocol.json_records import render_record
from ottla_protocol.record_codec import Record, RecordHeaders


def text_or_bytes(data: bytes | None) -> str | bytes | None:
    """Text where the bytes are UTF-8."""
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def header_document(headers: RecordHeaders) -> Any:
    """Headers as Ottla's JSON has them: an object, or pairs where names repeat or are no text."""
    if not headers:
        return {}
    return render_record(Record(0, 0, None, None, headers), "auto").headers
