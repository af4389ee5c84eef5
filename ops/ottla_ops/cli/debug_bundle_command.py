"""`ottla debug-bundle`: one file for whoever is to find out what is wrong."""

from pathlib import Path
from typing import Annotated

import typer

from ottla_ops.cli.session import session_of


def debug_bundle(
    context: typer.Context,
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to write it.  [default: ottla-debug-TIME.tar.gz here]",
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(min=1, max=600, metavar="SECONDS", help="Ask no more brokers after so long."),
    ] = 60.0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there.")
    ] = False,
) -> None:
    """Gather versions, settings, health, metrics and the metadata tree of all brokers in a tar.gz.

    It has no records and no secrets; it has names of topics, groups and hosts. What a broker does
    not tell is missing in it, and its manifest.json says why.
    """
    import time

    import urllib3

    from ottla_ops.cli.bootstrap import parse_bootstrap
    from ottla_ops.debug_bundle import Gathering, fetch_with, gather, write_bundle

    session = session_of(context)
    urls = parse_bootstrap(session.bootstrap)
    now_s = time.time()
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
    path = output or Path(f"ottla-debug-{stamp}.tar.gz")
    with urllib3.PoolManager() as http:
        gathering = Gathering(fetch_with(http), deadline_s=time.monotonic() + timeout)
        parts = write_bundle(path, gather(urls, gathering), now_s=now_s, overwrite=overwrite)
    if session.output.as_json:
        session.output.document({"file": str(path), "bytes": path.stat().st_size, "parts": parts})
        return
    session.output.text(str(path))
    missing = [part for part in parts if part["error"] is not None]
    for part in missing:
        session.output.note(f"without {part['name']}: {part['error']}")
    session.output.note(
        f"{len(parts) - len(missing)} of {len(parts)} parts, {path.stat().st_size} bytes"
    )
