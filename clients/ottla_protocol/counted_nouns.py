"""Numbers of things as people read them: `1 partition`, `3 partitions`, `1,024 copies`. Pure."""


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """The number, and its noun in the singular where there is one.

    Args:
        count: how many there are.
        noun: one of them.
        plural: several of them, where that is not the noun with an `s`.
    """
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"
