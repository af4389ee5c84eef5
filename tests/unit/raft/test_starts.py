"""Which starts of a voter are believed, by what is remembered of the last one."""

import pytest

from ottla_cluster.raft.configuration import Configuration, Voter
from ottla_cluster.raft.messages import Origin, RememberedStart
from ottla_cluster.raft.starts import RememberedStarts, Standing

CONFIGURATION = Configuration((Voter(2, "d"),))
KNOWN = RememberedStart("d", 7, "seventh", 5)


def judged(origin, term):
    return RememberedStarts({2: KNOWN}).judge(2, origin, term, CONFIGURATION)


@pytest.mark.parametrize(
    ("start_count", "incarnation", "former", "term"),
    [
        (7, "seventh", ("sixth",), 4),
        (8, "eighth", ("seventh", "sixth"), 5),
        (9, "ninth", ("eighth", "seventh"), 6),
        # Of a version that names none, at this start or at that one; or too long ago.
        (8, "eighth", (), 5),
        (9, "ninth", ("eighth", "", "sixth"), 5),
        (9, "ninth", ("eighth",), 5),
    ],
)
def test_a_start_that_may_follow_the_remembered_one_is_trusted(
    start_count, incarnation, former, term
):
    assert judged(Origin("d", start_count, incarnation, former), term) is Standing.TRUSTED


@pytest.mark.parametrize(
    ("start_count", "incarnation", "former", "term"),
    [
        (6, "sixth", (), 5),
        (7, "another", ("sixth",), 5),
        (8, "eighth", ("another", "sixth"), 5),
        (9, "ninth", ("eighth", "another", "sixth"), 6),
        (8, "eighth", ("seventh",), 4),
    ],
)
def test_a_start_on_an_older_copy_is_not(start_count, incarnation, former, term):
    assert judged(Origin("d", start_count, incarnation, former), term) is Standing.ROLLED_BACK


def test_another_directory_is_none_of_its_starts():
    assert judged(Origin("other", 8, "eighth"), 5) is Standing.OTHER_DIRECTORY
