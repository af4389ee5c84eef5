"""`ottla doctor`: is this machine fit for brokers, and are the brokers well?"""

import os
from pathlib import Path
from typing import Annotated

import typer

from ottla_ops.cli.failures import ExitCode
from ottla_ops.cli.session import session_of


def doctor(
    context: typer.Context,
    *,
    data_dir: Annotated[
        list[Path] | None,
        typer.Option(
            "--data-dir",
            envvar="OTTLA_DATA_DIR",
            help="A broker's data directory; may be repeated.  [default: those in ./data]",
        ),
    ] = None,
) -> None:
    """Check Python, SQLite, limits, clock, data directories and the brokers of --bootstrap.

    Exit codes: 0 well, or warnings only; 1 something here would keep brokers from running; 5 a
    broker cannot be reached or is not ready.
    """
    from ottla_ops.cli.bootstrap import parse_bootstrap
    from ottla_ops.doctor import Status, examine_brokers, examine_machine

    session = session_of(context)
    urls = parse_bootstrap(session.bootstrap)
    directories = data_dir or sorted(Path("data").glob("broker-*")) or [Path("data")]
    machine = list(examine_machine(directories, os.environ))
    brokers = list(examine_brokers(urls))
    findings = [*machine, *brokers]
    exit_code = ExitCode.OK
    if any(finding.status is Status.FAILED for finding in machine):
        exit_code = ExitCode.FAILURE
    elif any(finding.status is Status.FAILED for finding in brokers):
        exit_code = ExitCode.UNAVAILABLE
    if session.output.as_json:
        session.output.document(
            {
                "well": exit_code is ExitCode.OK,
                "checks": [
                    {
                        "check": finding.check,
                        "status": finding.status.value,
                        "detail": finding.detail,
                        "hint": finding.hint or None,
                    }
                    for finding in findings
                ],
            }
        )
    else:
        session.output.table(
            ("STATUS", "CHECK", "FOUND"),
            [(finding.status.value, finding.check, finding.detail) for finding in findings],
        )
        for finding in findings:
            if finding.hint:
                session.output.note(f"{finding.check}: {finding.hint}")
    raise typer.Exit(exit_code)
