"""docs/http.md tells every field of a record."""

from pathlib import Path

import msgspec
import pytest

from ottla_protocol.json_records import _JsonRecord

PAGE = (Path(__file__).parents[3] / "docs" / "http.md").read_text()


@pytest.mark.parametrize("field", [each.name for each in msgspec.structs.fields(_JsonRecord)])
def test_every_field_of_a_record_is_told(field):
    assert f"`{field}`" in PAGE
