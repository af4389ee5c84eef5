"""`ottla produce`: lines from stdin or a file into a topic."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ottla_ops.cli.failures import CommandError, file_failure, usage_error
from ottla_ops.cli.session import Session, session_of

if TYPE_CHECKING:
    from ottla_ops.cli.record_input import RecordFormat
    from ottla_protocol.models import ProduceResponse


class Acks(StrEnum):
    """Which replicas have to have a record before it counts as written."""

    NONE = "0"
    LEADER = "1"
    ALL = "all"


def produce(
    context: typer.Context,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="Topic to write to.")],
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="File to read; stdin when left out or '-'."),
    ] = None,
    *,
    ndjson: Annotated[
        bool, typer.Option("--ndjson", help="Each line is a JSON value, not text.")
    ] = False,
    key_field: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="With --ndjson: the member whose text is the record's key."
        ),
    ] = None,
    key_separator: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Text lines are KEY, this separator, VALUE.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="TEXT", help="One key for all records.")
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--header", "-H", metavar="NAME=TEXT", help="A header of every record; may be repeated."
        ),
    ] = None,
    partition: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Partition; the broker chooses by key without it."),
    ] = None,
    acks: Annotated[Acks, typer.Option(help="Who has to have it: nobody, leader, all.")] = Acks.ALL,
    idempotency: Annotated[
        bool,
        typer.Option(help="Send an Idempotency-Key, so that a retry never stores twice."),
    ] = True,
    unordered: Annotated[
        bool, typer.Option("--unordered", help="Faster, by giving up the order of the lines.")
    ] = False,
    timeout: Annotated[
        float,
        typer.Option(
            min=0.1, metavar="SECONDS", help="How long one batch may take, retries included."
        ),
    ] = 30.0,
) -> None:
    """Write each line of stdin or a file as a record.

    With --json every record is acknowledged as a line {"partition", "offset"} on stdout.
    """
    # Imported here, so that `ottla --help` does not wait for an HTTP client.
    from ottla_ops.cli.producing import ProduceTarget, send_batches
    from ottla_ops.cli.record_input import read_batches
    from ottla_ops.cli.transfer_progress import TransferProgress

    session = session_of(context)
    record_format = _record_format(
        ndjson=ndjson, key_field=key_field, key_separator=key_separator, key=key, header=header
    )
    target = ProduceTarget(
        topic=topic,
        partition=partition,
        acks=acks.value,
        idempotency=idempotency,
        unordered=unordered,
        timeout_s=timeout,
    )
    connection = session.connect()
    with (
        _opened(session, file) as descriptor,
        # Only a regular file knows how much there is.
        TransferProgress(session.output, os.fstat(descriptor).st_size or None) as progress,
    ):
        try:
            batches = read_batches(descriptor, record_format)
            for batch, response in send_batches(connection, target, batches):
                progress.advance(batch.records, batch.input_bytes)
                if session.output.as_json:
                    _print_acks(session, response)
        except (CommandError, KeyboardInterrupt):
            if progress.records:
                progress.summarize(f"written to {topic}", "only the first ")
            raise
        progress.summarize(f"written to {topic}")


def _record_format(
    *,
    ndjson: bool,
    key_field: str | None,
    key_separator: str | None,
    key: str | None,
    header: list[str] | None,
) -> "RecordFormat":
    from ottla_ops.cli.record_input import RecordFormat

    if key_field is not None and not ndjson:
        raise usage_error("--key-field needs --ndjson")
    if key_separator is not None and ndjson:
        raise usage_error("--key-separator is for text lines; use --key-field with --ndjson")
    if key_separator == "":
        raise usage_error("--key-separator must not be empty")
    if key is not None and (key_field is not None or key_separator is not None):
        raise usage_error("--key gives every record the same key; leave out the other key option")
    return RecordFormat(
        ndjson=ndjson,
        key_field=key_field,
        key_separator=key_separator,
        key=key,
        headers=tuple(map(_header, header or ())),
    )


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise usage_error(f"--header {text}: not of the form NAME=TEXT")
    return name, value


@contextmanager
def _opened(session: Session, file: Path | None) -> Iterator[int]:
    """The input's file descriptor."""
    if file is None or str(file) == "-":
        if sys.stdin.isatty():
            session.output.note("Each line becomes a record; Ctrl-D ends.")
        yield sys.stdin.fileno()
        return
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError as error:
        raise file_failure(file, "read", error) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _print_acks(session: Session, response: "ProduceResponse") -> None:
    duplicates = {result.partition: result.duplicate for result in response.results}
    session.output.lines(
        b'{"partition":%d,"offset":%d,"duplicate":%s}'
        % (
            position.partition,
            position.offset,
            b"true" if duplicates.get(position.partition) else b"false",
        )
        for position in response.records
    )
