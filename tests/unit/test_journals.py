"""The consumers' chaos run would notice what it must."""

import pytest

from tests.chaos.journals import gaps, overlaps, read_journals


@pytest.fixture
def journals(tmp_path):
    """Write journals, by process: lines with their times."""

    def write(**lines):
        paths = [tmp_path / f"{process}.journal" for process in lines]
        for path, text in zip(paths, lines.values(), strict=True):
            path.write_text("\n".join(text) + "\n")
        return read_journals(paths)

    return write


def test_a_partition_that_changes_hands_in_order_is_no_overlap(journals):
    found = journals(
        a=["1 assigned 0", "2 took 0 0 3", "3 did 0 0 10", "4 revoked 0"],
        b=["5 assigned 0", "6 took 0 3 1", "7 did 0 3 11"],
    )
    assert overlaps(found, {}) == []
    assert gaps(found) == []
    assert dict(found.done) == {10: 1, 11: 1}


def test_a_taking_after_somebody_elses_assignment_is_an_overlap(journals):
    found = journals(a=["1 assigned 0", "6 took 0 0 3"], b=["5 assigned 0"])
    assert overlaps(found, {}) == [(0, 0, 3, "a", "b")]


def test_the_first_taking_after_a_pause_is_left_to_its_commit_and_no_other(journals):
    found = journals(
        a=["1 assigned 0", "6 took 0 0 3", "7 took 0 3 2"],
        b=["5 assigned 0"],
    )
    assert overlaps(found, {"a": [5]}) == [(0, 3, 2, "a", "b")]
    assert len(overlaps(found, {"b": [5]})) == 2


def test_records_that_were_skipped_are_a_gap(journals):
    found = journals(a=["1 assigned 0", "2 took 0 0 3", "3 took 0 4 1"])
    assert gaps(found) == [(0, 3, 4, "a")]


def test_what_a_kill_cut_off_is_left_out(tmp_path):
    path = tmp_path / "a.journal"
    path.write_text("1 assigned 0\n2 did 0 0 1")
    assert read_journals([path]).done == {}


def test_taking_what_is_not_owned_is_refused(journals):
    with pytest.raises(AssertionError, match="does not own"):
        journals(a=["1 took 0 0 1"])
