"""Partitions as people write them: `TOPIC:PARTITION`."""

from ottla_ops.cli.failures import usage_error


def partition_of(text: str) -> tuple[str, int]:
    """`TOPIC:PARTITION` as its parts; a topic's name has no colon.

    Raises:
        CommandError: (usage) it is not of that form.
    """
    topic, _, number = text.rpartition(":")
    if not topic or not number.isascii() or not number.isdigit():
        raise usage_error(f"{text}: not of the form TOPIC:PARTITION")
    return topic, int(number)
