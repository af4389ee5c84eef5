"""The bootstrap list: how clients are told where a cluster is."""

from typing import Final
from urllib.parse import urlsplit

from ottla_ops.cli.failures import usage_error

DEFAULT_BOOTSTRAP: Final = "http://127.0.0.1:7101,http://127.0.0.1:7102,http://127.0.0.1:7103"
"""The brokers of `make start`."""


def parse_bootstrap(bootstrap: str) -> tuple[str, ...]:
    """The base URLs of a comma-separated list, without trailing slashes.

    Raises:
        CommandError: (usage) the list is empty or one of its members is no http(s) URL.
    """
    urls = []
    for part in filter(None, (piece.strip() for piece in bootstrap.split(","))):
        url = (part if "://" in part else f"http://{part}").rstrip("/")
        try:
            parts = urlsplit(url)
            is_base_url = parts.scheme in {"http", "https"} and bool(parts.hostname)
            is_base_url = is_base_url and not parts.path and parts.port != 0
        except ValueError:
            # The port is no number or out of range.
            is_base_url = False
        if not is_base_url:
            raise usage_error(f"'{part}' in --bootstrap is not of the form http://host:port")
        urls.append(url)
    if not urls:
        raise usage_error("--bootstrap names no broker")
    return tuple(urls)
