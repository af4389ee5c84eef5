"""Choosing keys as the world does: a few very often, most of them seldom.

Zipf's law: the key of rank k (from 1) is chosen with a weight of 1/k to the power of the exponent.
"""

from bisect import bisect_left
from itertools import accumulate
from random import Random

EXPONENT = 1.0
"""Of Zipf's own law; 0 chooses all alike."""


class ZipfChoice:
    """Chooses ranks below `count`, rank 0 most often.

    Args:
        count: how many there are to choose from.
        random: whose choice it is.
        exponent: how steep it is, at least 0.
    """

    def __init__(self, count: int, random: Random, exponent: float = EXPONENT) -> None:
        assert count > 0, "nothing to choose from"
        assert exponent >= 0, "rank 0 is the most frequent one"
        self._random = random
        self._cumulative = list(accumulate(rank**-exponent for rank in range(1, count + 1)))

    def next(self) -> int:
        """The next rank."""
        return bisect_left(self._cumulative, self._random.random() * self._cumulative[-1])
