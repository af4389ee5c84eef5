"""YAML that is written as text, so that it keeps its comments."""


def quoted_scalar(text: str) -> str:
    """A scalar in single quotes, where nothing but the quote itself is special."""
    return "'" + text.replace("'", "''") + "'"
