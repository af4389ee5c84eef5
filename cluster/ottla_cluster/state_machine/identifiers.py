"""Which identifiers a machine takes: names that a client makes up."""

from ottla_protocol.errors import OttlaError


def validate_identifier(
    identifier: str, *, name: str, max_length: int, refusal: type[OttlaError]
) -> None:
    """Refuses an identifier that breaks a rule; call it after URL-decoding.

    Args:
        identifier: what the client made up. `.` and `..` could not stand in a URL's path.
        name: what it is, as a sentence begins with it.
        max_length: how many characters it may have.
        refusal: the error to raise; its detail names the rule.
    """
    if not 0 < len(identifier) <= max_length:
        raise refusal(
            f"{name} must have 1 to {max_length} characters; this one has {len(identifier)}."
        )
    if not identifier.isprintable() or identifier in {".", ".."}:
        raise refusal(
            f"{name} must not be '.' or '..' and must have printable characters only; "
            f"this one is {identifier!r}."
        )
