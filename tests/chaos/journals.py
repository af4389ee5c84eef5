"""What the journals of consuming processes prove, or disprove."""

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass
class Tenure:
    """One process's time with one partition, from its assignment to its end.

    Attributes:
        process: which one.
        began_ns, ended_ns: None while it lasts.
        taken: what polls handed out in it: (time, first offset, count).
    """

    process: str
    began_ns: int
    ended_ns: int | None = None
    taken: list = field(default_factory=list)


@dataclass
class Journals:
    """Everything that all processes wrote.

    Attributes:
        tenures: by partition, in the order of their beginnings.
        done: by sequence number, how often that record was processed.
        refused: commits that were refused.
    """

    tenures: dict
    done: dict
    refused: int


def read_journals(paths):
    """Read what is there; a last line that a kill cut off is left out."""
    tenures, done, refused = defaultdict(list), defaultdict(int), 0
    for path in paths:
        current = {}
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        for line in lines:
            time, word, *rest = line.split()
            now_ns, partition = int(time), rest[0]
            if word == "assigned":
                assert partition not in current, f"{path}: assigned twice: {line}"
                current[partition] = Tenure(path.stem, now_ns)
                tenures[int(partition)].append(current[partition])
            elif word in ("revoked", "lost"):
                current.pop(partition).ended_ns = now_ns
            elif word == "took":
                assert partition in current, f"{path}: took what it does not own: {line}"
                current[partition].taken.append((now_ns, int(rest[1]), int(rest[2])))
            elif word == "did":
                done[int(rest[2])] += 1
            else:
                assert word == "refused", line
                refused += 1
    for partition in tenures.values():
        partition.sort(key=lambda tenure: tenure.began_ns)
    return Journals(tenures, done, refused)


def overlaps(journals, pauses):
    """Records that were taken although the partition had been given to somebody else.

    A process that was stopped in the middle of poll() may write down, when it goes on, what it took
    before. So of each pause the first taking after it is not counted: what becomes of that one is
    decided by its commit.

    Args:
        journals: what was written.
        pauses: by process, the times at which it was made to go on.
    """
    found = []
    for partition, tenures in journals.tenures.items():
        for earlier, later in pairwise(tenures):
            for taken_ns, offset, count in earlier.taken:
                if taken_ns > later.began_ns and not _is_first_after_pause(
                    earlier, taken_ns, pauses.get(earlier.process, ())
                ):
                    found.append((partition, offset, count, earlier.process, later.process))
    return found


def _is_first_after_pause(tenure, taken_ns, resumed_ns):
    since = max((time for time in resumed_ns if time <= taken_ns), default=None)
    if since is None:
        return False
    return min(time for time, _, _ in tenure.taken if time >= since) == taken_ns


def gaps(journals):
    """Places where a process skipped records within its tenure."""
    found = []
    for partition, tenures in journals.tenures.items():
        for tenure in tenures:
            for (_, offset, count), (_, following, _) in pairwise(tenure.taken):
                if following != offset + count:
                    found.append((partition, offset + count, following, tenure.process))
    return found
