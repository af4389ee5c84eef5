"""What journals of transactions and the records that readers saw prove, or disprove: T1, T2, T8."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from enum import StrEnum


class Fate(StrEnum):
    """What a client was told of its transaction."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"
    """It was told nothing, or did not live to hear it."""


@dataclass(frozen=True)
class Leg:
    """One record of a transfer, as a reader of committed records saw it.

    Attributes:
        transfer: which transfer it is part of.
        number: which of its `legs` records.
        change: what it adds to an account.
        place: (partition, offset).
    """

    transfer: str
    number: int
    legs: int
    change: int
    place: tuple


def lines_of(path):
    """The lines of a journal; a last one that a kill cut off is left out."""
    return path.read_text().split("\n")[:-1] if path.exists() else []


def read_fates(paths):
    """By transfer, what its client was told."""
    fates = {}
    for path in paths:
        for line in lines_of(path):
            word, *rest = line.split()
            if word == "began":
                assert rest[0] not in fates, f"{path}: began twice: {line}"
                fates[rest[0]] = Fate.UNKNOWN
            elif word in set(Fate):
                fates[rest[0]] = Fate(word)
    return fates


def count_words(paths):
    """How often each word begins a line of the journals."""
    return Counter(line.split()[0] for path in paths for line in lines_of(path))


def wrong_transfers(fates, legs):
    """What is torn, aborted and visible, committed and absent, or there twice.

    Args:
        fates: by transfer; see `read_fates`.
        legs: every Leg that is visible in the end.
    """
    found = defaultdict(list)
    for leg in legs:
        found[leg.transfer].append(leg)
    problems = [f"{name} is visible, and nobody began it" for name in found.keys() - fates.keys()]
    for name, fate in fates.items():
        of_it = found.get(name, [])
        if not of_it:
            if fate is Fate.COMMITTED:
                problems.append(f"{name} was committed, and is not visible")
            continue
        places = [leg.place for leg in of_it]
        if fate is Fate.ABORTED:
            problems.append(f"{name} was aborted, and is visible at {places}")
        numbers = sorted(leg.number for leg in of_it)
        if numbers != list(range(of_it[0].legs)):
            problems.append(f"{name} has {of_it[0].legs} legs, and {numbers} are at {places}")
        elif sum(leg.change for leg in of_it) != 0:
            problems.append(f"{name} makes or loses money: {of_it}")
    return problems


def wrong_reads(live, legs):
    """What a reader was shown while all went on, and what is not there in the end.

    Args:
        live: every Leg in the order in which one reader saw them.
        legs: every Leg that is visible in the end.
    """
    final = {leg.place: leg.transfer for leg in legs}
    problems = [
        f"{leg.transfer} was shown at {leg.place}, and in the end there is {final.get(leg.place)}"
        for leg in live
        if final.get(leg.place) != leg.transfer
    ]
    latest = {}
    for leg in live:
        partition, offset = leg.place
        if offset <= latest.get(partition, -1):
            problems.append(f"{leg.place} was shown after offset {latest[partition]}")
        latest[partition] = offset
    return problems


def wrong_outputs(inputs, outputs):
    """Inputs that are not in the output exactly once.

    Args:
        inputs: the names of all inputs.
        outputs: the input's name of each visible output, and who wrote it.
    """
    writers = defaultdict(list)
    for name, writer in outputs:
        writers[name].append(writer)
    problems = [
        f"{name} is in the output {len(by)} times, by {by}"
        for name, by in writers.items()
        if len(by) > 1
    ]
    problems += [f"{name} is in the output, and is no input" for name in writers.keys() - inputs]
    problems += [f"{name} is not in the output" for name in inputs - writers.keys()]
    return problems
