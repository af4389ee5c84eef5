"""`ottla tail`: the last records of a topic, and with --follow those that come."""

from typing import Annotated

import typer

from ottla_ops.cli.consume_command import FormatOption, Isolation, consume


def tail(
    context: typer.Context,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="Topic to read.")],
    *,
    last: Annotated[
        int,
        typer.Option("--last", "-n", min=0, metavar="N", help="How many of each partition."),
    ] = 10,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with records that are still to come.")
    ] = False,
    partition: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Only this partition; all of them without it."),
    ] = None,
    isolation: Annotated[
        Isolation, typer.Option(help="Whether also what is not committed; see `consume`.")
    ] = Isolation.UNCOMMITTED,
    where: Annotated[
        str | None,
        typer.Option(metavar="EXPRESSION", help="Only those for which this holds; see `consume`."),
    ] = None,
    output_format: Annotated[str, FormatOption] = "value",
) -> None:
    """Print the last records of each partition; `consume` can do all that this does, and more."""
    consume(
        context,
        topic,
        partition=partition,
        start=f"-{last}" if last else "latest",
        follow=follow,
        where=where,
        isolation=isolation,
        output_format=output_format,
    )
