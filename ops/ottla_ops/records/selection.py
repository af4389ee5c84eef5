"""Which records of a topic are wanted: bounds on partition, offset and timestamp. Pure.

Bounds say what may be left unread. A source may give more than they ask for only where it says so.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """Integers from `low` to `high`, both included; None is no bound.

    `among`, where it is not None, names the only ones wanted.
    """

    low: int | None = None
    high: int | None = None
    among: frozenset[int] | None = None

    def __contains__(self, number: int) -> bool:
        return (
            (self.low is None or number >= self.low)
            and (self.high is None or number <= self.high)
            and (self.among is None or number in self.among)
        )

    @property
    def is_open(self) -> bool:
        """Whether every integer is in."""
        return self.low is None and self.high is None and self.among is None

    @property
    def least(self) -> int | None:
        """No smaller number is in; None without such a bound."""
        lows = (self.low, min(self.among) if self.among else None)
        return max((low for low in lows if low is not None), default=None)

    @property
    def greatest(self) -> int | None:
        """No larger number is in; None without such a bound."""
        highs = (self.high, max(self.among) if self.among else None)
        return min((high for high in highs if high is not None), default=None)

    def both(self, other: "Bounds") -> "Bounds":
        """What is in this and in the other."""
        lows = [low for low in (self.low, other.low) if low is not None]
        highs = [high for high in (self.high, other.high) if high is not None]
        among = self.among if other.among is None else other.among
        if self.among is not None and other.among is not None:
            among = self.among & other.among
        return Bounds(max(lows) if lows else None, min(highs) if highs else None, among)


@dataclass(frozen=True, slots=True)
class Selection:
    """The wanted records of one topic; without bounds all of them."""

    partition: Bounds = Bounds()
    offset: Bounds = Bounds()
    timestamp: Bounds = Bounds()

    @property
    def is_empty(self) -> bool:
        """Whether the bounds themselves leave nothing."""
        return any(
            bounds.among == frozenset()
            or (
                bounds.least is not None
                and bounds.greatest is not None
                and bounds.least > bounds.greatest
            )
            for bounds in (self.partition, self.offset, self.timestamp)
        )

    def both(self, other: "Selection") -> "Selection":
        """What this and the other want."""
        return Selection(
            self.partition.both(other.partition),
            self.offset.both(other.offset),
            self.timestamp.both(other.timestamp),
        )
