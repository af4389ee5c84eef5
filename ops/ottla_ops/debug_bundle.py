"""Gathers what somebody far away needs to understand a cluster, into one tar.gz.

Every broker is asked for its own view, because a cluster in trouble disagrees; what cannot be had
is told in the manifest and stops nothing. No records are read, the text that consumers store beside
their offsets is left out, and so is the value of every setting that could be a secret.
"""

import io
import os
import platform
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import msgspec
import urllib3

from ottla_broker.settings import Settings
from ottla_broker.storage.sqlite_version import sqlite_in_use
from ottla_ops.cli.failures import CommandError, ExitCode, file_failure
from ottla_protocol import routes
from ottla_protocol.models_tree import MAX_TREE_LIMIT

PART_BYTES_MAX: Final = 16 << 20
BUNDLE_BYTES_MAX: Final = 256 << 20
"""Before compression."""

BROKERS_MAX: Final = 100
GROUPS_MAX: Final = 200
TREE_PAGES_MAX: Final = 20
TREE_VALUES_MAX: Final = 500
REQUEST_TIMEOUT_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 2.0

MASK: Final = "(not told)"
PLAIN_VARIABLES: Final = frozenset(
    f"OTTLA_{name.upper()}"
    for name, setting in Settings.model_fields.items()
    if "SecretStr" not in str(setting.annotation)
)
"""Settings that are no secrets; of any other variable only the name is told."""

BROKER_PARTS: Final = {
    "version.json": routes.VERSION,
    "livez.json": routes.LIVENESS,
    "readyz.json": routes.READINESS,
    "cluster.json": routes.CLUSTER,
    "health.json": f"{routes.CLUSTER_HEALTH}?limit=1000",
    "quorum.json": routes.CLUSTER_QUORUM,
    "metrics.txt": routes.METRICS,
}

Fetch = Callable[[str, str], tuple[int, bytes]]
"""Asks a base URL for a path: status and body. Raises OSError or urllib3's HTTPError."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the bundle, or why it is not there.

    Attributes:
        name: its path in the bundle.
        content: what was found; empty where there is an `error`.
        error: why there is nothing, None where there is.
    """

    name: str
    content: bytes = b""
    error: str | None = None


@dataclass(slots=True)
class Gathering:
    """One gathering: asks within a time and keeps within a size.

    Attributes:
        fetch: how to ask.
        deadline_s: by `clock`, when to ask no more.
        clock: monotonic seconds.
        bytes_left: how much may still be kept.
    """

    fetch: Fetch
    deadline_s: float
    clock: Callable[[], float] = time.monotonic
    bytes_left: int = field(default=BUNDLE_BYTES_MAX)

    def ask(self, name: str, url: str, path: str) -> Part:
        """The answer to one request as a part of the bundle, whatever its status."""
        if self.clock() >= self.deadline_s:
            return Part(name, error="the time was up; --timeout gives more")
        try:
            _, content = self.fetch(url, path)
        except (OSError, urllib3.exceptions.HTTPError) as error:
            return Part(name, error=f"{type(error).__name__} from {without_password(url)}")
        return self.kept(name, content)

    def kept(self, name: str, content: bytes) -> Part:
        """The content as a part, if there is room for it."""
        if len(content) > min(PART_BYTES_MAX, self.bytes_left):
            return Part(name, error=f"{len(content)} bytes or more are too many")
        self.bytes_left -= len(content)
        return Part(name, content)

    def document(self, urls: Sequence[str], path: str) -> dict[str, Any] | None:
        """A JSON object from the first broker that has one."""
        for url in urls:
            if self.clock() >= self.deadline_s:
                return None
            try:
                status, content = self.fetch(url, path)
                if status < 400:
                    return msgspec.json.decode(content, type=dict[str, Any])
            except (OSError, urllib3.exceptions.HTTPError, msgspec.DecodeError):
                # Another broker may have it; that nobody has is told by who asked.
                continue
        return None


def gather(urls: Sequence[str], gathering: Gathering) -> Iterator[Part]:
    """All parts of a bundle but the manifest.

    Args:
        urls: base URLs of brokers; others that they know of are asked too.
        gathering: how, how long and how much.
    """
    yield gathering.kept("client.json", _json(client_versions()))
    yield gathering.kept("settings.json", _json(told_settings(os.environ)))
    brokers = gathering.document(urls, routes.CLUSTER) or {}
    known = [str(each["url"]) for each in brokers.get("brokers", []) if each.get("url")]
    everyone = list(dict.fromkeys([*urls, *known]))[:BROKERS_MAX]
    for url in everyone:
        for name, path in BROKER_PARTS.items():
            yield gathering.ask(f"brokers/{_directory_name(url)}/{name}", url, path)
    yield _found(gathering, "topics.json", gathering.document(everyone, routes.TOPICS))
    transactions = gathering.document(everyone, routes.TRANSACTIONS)
    yield _found(gathering, "transactions.json", transactions)
    groups = gathering.document(everyone, routes.GROUPS)
    yield _found(gathering, "groups.json", groups)
    for number, group in enumerate((groups or {}).get("groups", [])[:GROUPS_MAX]):
        path = routes.GROUP.format(group=quote(str(group["group"]), safe=""))
        described = gathering.document(everyone, path)
        yield _found(gathering, f"groups/{number}.json", _without_commit_metadata(described))
    yield _metadata_tree(gathering, everyone)


def write_bundle(
    path: Path, parts: Iterable[Part], *, now_s: float, overwrite: bool
) -> list[dict[str, object]]:
    """Write the parts and a manifest of them as tar.gz; only its owner may read the file.

    Args:
        path: the file; it is there when it is whole.
        parts: what to write.
        now_s: the time, in seconds since the epoch.
        overwrite: replace a file that is there.

    Returns:
        What the manifest says of each part.

    Raises:
        CommandError: (conflict) there is a file already; it cannot be written.
    """
    if path.exists() and not overwrite:
        raise CommandError(
            f"{path} is there already",
            code="FILE_EXISTS",
            exit_code=ExitCode.CONFLICT,
            hint="--overwrite replaces it",
        )
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    entries: list[dict[str, object]] = []
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file, tarfile.open(None, "w:gz", file) as archive:
                for part in parts:
                    entries.append(
                        {"name": part.name, "bytes": len(part.content), "error": part.error}
                    )
                    if part.error is None:
                        _add(archive, part.name, part.content, now_s)
                manifest = {"format": 1, "created_ms": int(now_s * 1000), "parts": entries}
                _add(archive, "manifest.json", _json(manifest), now_s)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise file_failure(path, "written", error) from error
    return entries


def fetch_with(http: urllib3.PoolManager) -> Fetch:
    """Asks over HTTP, without retries and no more than a part may have."""

    def fetch(url: str, path: str) -> tuple[int, bytes]:
        response = http.request(
            "GET",
            url + path,
            retries=False,
            redirect=False,
            preload_content=False,
            timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=REQUEST_TIMEOUT_S),
        )
        try:
            return response.status, response.read(PART_BYTES_MAX + 1)
        finally:
            # What was not read to its end cannot be used again.
            response.close()

    return fetch


def client_versions() -> dict[str, object]:
    """Where the bundle was made: Python, SQLite, system, installed packages."""
    packages = {each.metadata["Name"]: each.version for each in distributions()}
    sqlite = sqlite_in_use()
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "sqlite": str(sqlite.version),
        "packages": dict(sorted(packages.items())),
    }


def told_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The `OTTLA_*` variables; the value of what is not known to be no secret is masked."""
    return {
        name: without_password(value) if name in PLAIN_VARIABLES else MASK
        for name, value in sorted(environment.items())
        if name.startswith("OTTLA_")
    }


def without_password(text: str) -> str:
    """The text with user and password of a URL in it masked."""
    if "@" not in text or "://" not in text:
        return text
    return ",".join(
        f"{urlsplit(part).scheme}://{MASK}@{part.rpartition('@')[2]}" if "@" in part else part
        for part in text.split(",")
    )


def _metadata_tree(gathering: Gathering, urls: Sequence[str]) -> Part:
    """All paths, and what the first of them say; groups have files of their own."""
    name = "metadata-tree.json"
    paths: list[str] = []
    cursor = ""
    is_whole = False
    for _ in range(TREE_PAGES_MAX):
        after = f"&cursor={quote(cursor, safe='')}" if cursor else ""
        page = gathering.document(
            urls, f"{routes.METADATA_TREE}/?recursive=true&limit={MAX_TREE_LIMIT}{after}"
        )
        if page is None:
            break
        paths += page["paths"]
        cursor = page.get("next_cursor") or ""
        if not cursor:
            is_whole = True
            break
    if not paths:
        return Part(name, error="no broker told it")
    values = {}
    for path in [each for each in paths if not each.startswith("/consumers")][:TREE_VALUES_MAX]:
        node = gathering.document(urls, f"{routes.METADATA_TREE}{quote(path, safe='/%')}?limit=1")
        if node is not None and node.get("value") is not None:
            values[path] = node["value"]
    return gathering.kept(name, _json({"is_whole": is_whole, "paths": paths, "values": values}))


def _without_commit_metadata(group: dict[str, Any] | None) -> dict[str, Any] | None:
    # An application may store anything in it.
    for offset in (group or {}).get("offsets", []):
        offset.pop("metadata", None)
    return group


def _found(gathering: Gathering, name: str, document: dict[str, Any] | None) -> Part:
    if document is None:
        return Part(name, error="no broker told it")
    return gathering.kept(name, _json(document))


def _directory_name(url: str) -> str:
    return quote(urlsplit(url).netloc.rpartition("@")[2].replace(":", "-"), safe="")


def _add(archive: tarfile.TarFile, name: str, content: bytes, now_s: float) -> None:
    member = tarfile.TarInfo(f"ottla-debug/{name}")
    member.size, member.mtime, member.mode = len(content), int(now_s), 0o600
    archive.addfile(member, io.BytesIO(content))


def _json(document: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
