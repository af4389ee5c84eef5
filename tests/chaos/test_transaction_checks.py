"""The checks of transactions' histories find what is planted."""

import pytest

from tests.chaos.transaction_checks import (
    Fate,
    Leg,
    read_fates,
    wrong_outputs,
    wrong_reads,
    wrong_transfers,
)


def legs_of(transfer, *changes, at=0):
    return [
        Leg(transfer, number, len(changes), change, (number, at))
        for number, change in enumerate(changes)
    ]


WHOLE = legs_of("a", -3, 1, 2)


@pytest.mark.parametrize("fate", [Fate.COMMITTED, Fate.UNKNOWN])
def test_a_whole_transfer_is_right(fate):
    assert wrong_transfers({"a": fate}, WHOLE) == []


@pytest.mark.parametrize("fate", [Fate.ABORTED, Fate.UNKNOWN])
def test_one_that_is_not_there_is_right(fate):
    assert wrong_transfers({"a": fate}, []) == []


@pytest.mark.parametrize(
    ("fates", "legs", "words"),
    [
        ({"a": Fate.COMMITTED}, [], "is not visible"),
        ({"a": Fate.COMMITTED}, WHOLE[1:], "has 3 legs"),
        ({"a": Fate.UNKNOWN}, WHOLE[:1], "has 3 legs"),
        ({"a": Fate.COMMITTED}, [*WHOLE, *legs_of("a", -3, 1, 2, at=9)], "has 3 legs"),
        ({"a": Fate.ABORTED}, WHOLE, "was aborted"),
        ({"a": Fate.COMMITTED}, legs_of("a", -3, 1, 1), "loses money"),
        ({}, WHOLE, "nobody began it"),
    ],
)
def test_planted_transfers_are_found(fates, legs, words):
    (problem,) = wrong_transfers(fates, legs)
    assert words in problem


def test_a_read_that_stands_is_right():
    assert wrong_reads(WHOLE, [*WHOLE, *legs_of("b", 1, -1, at=5)]) == []


def test_a_record_that_was_shown_and_is_gone_is_found():
    (problem,) = wrong_reads(legs_of("b", 1, -1, at=5)[:1], WHOLE)
    assert "(0, 5)" in problem


def test_a_record_that_was_shown_twice_is_found():
    (problem,) = wrong_reads([WHOLE[0], WHOLE[0]], WHOLE)
    assert "was shown after" in problem


def test_outputs_are_right_when_each_input_is_there_once():
    assert wrong_outputs({"x", "y"}, [("y", 1), ("x", 2)]) == []


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ([("x", 1)], "y is not in the output"),
        ([("x", 1), ("y", 1), ("y", 2)], "2 times, by [1, 2]"),
        ([("x", 1), ("y", 1), ("z", 1)], "z is in the output, and is no input"),
    ],
)
def test_planted_outputs_are_found(outputs, words):
    (problem,) = wrong_outputs({"x", "y"}, outputs)
    assert words in problem


def test_journals_tell_the_last_word(tmp_path):
    journal = tmp_path / "a.journal"
    journal.write_text("began a\ncommitted a\nbegan b\naborted b\nbegan c\nfenced me\ncommitted c")
    assert read_fates([journal, tmp_path / "none"]) == {
        "a": Fate.COMMITTED,
        "b": Fate.ABORTED,
        "c": Fate.UNKNOWN,
    }
