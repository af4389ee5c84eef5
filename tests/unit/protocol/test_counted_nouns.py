import pytest

from ottla_protocol.counted_nouns import counted


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, "0 records"), (1, "1 record"), (2, "2 records"), (1024, "1,024 records")],
)
def test_a_noun_goes_with_its_number(count, told):
    assert counted(count, "record") == told


def test_a_plural_may_be_of_its_own():
    assert [counted(count, "copy", "copies") for count in (1, 2)] == ["1 copy", "2 copies"]
