"""Rates as people write them: 500k, 20M."""

from typing import Final

from ottla_ops.cli.failures import usage_error

UNITS: Final = {"k": 10**3, "M": 10**6, "G": 10**9}


def bytes_per_second(text: str, option: str) -> int:
    """A rate in bytes per second, of which `option` was given the text.

    Raises:
        CommandError: (usage) it is no number above 0, with a unit or without.
    """
    unit = UNITS.get(text[-1:], 1)
    digits = text[:-1] if unit > 1 else text
    if not (digits.isascii() and digits.isdigit() and int(digits) > 0):
        raise usage_error(f"{option} {text}: not bytes per second (500k, 20M)")
    return int(digits) * unit
