"""`ottla topic`: list, create, describe, alter, delete."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ottla_ops.cli.confirmation import confirm
from ottla_ops.cli.failures import usage_error
from ottla_ops.cli.session import session_of

if TYPE_CHECKING:
    from ottla_protocol.models import TopicDescription

app = typer.Typer(help="Topics: list, create, describe, alter, delete.", no_args_is_help=True)

TopicName = Annotated[str, typer.Argument(metavar="TOPIC", help="Name of the topic.")]


@app.command("list")
def list_topics(context: typer.Context) -> None:
    """List all topics."""
    from ottla_protocol import routes
    from ottla_protocol.models import TopicList

    session = session_of(context)
    answer = session.connect().request("GET", routes.TOPICS)
    if session.output.as_json:
        session.output.document(answer.document())
        return
    rows = [
        (
            topic.name,
            len(topic.partitions),
            _replication_factor(topic),
            sum(len(each.isr) < len(each.replicas) for each in topic.partitions),
            sum(each.leader is None for each in topic.partitions),
        )
        for topic in answer.decoded(TopicList).topics
    ]
    headers = ("TOPIC", "PARTITIONS", "REPLICATION", "UNDER-REPLICATED", "LEADERLESS")
    session.output.table(headers, rows)


@app.command("create")
def create_topic(
    context: typer.Context,
    name: TopicName,
    *,
    partitions: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Number of partitions; the broker's default without."
        ),
    ] = None,
    replication_factor: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Copies of each partition; the broker's default without."
        ),
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A topic config; may be repeated."),
    ] = None,
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Only check whether it could be created.")
    ] = False,
) -> None:
    """Create a topic."""
    from ottla_protocol import routes
    from ottla_protocol.models import TopicDescription

    session = session_of(context)
    request: dict[str, Any] = {"name": name}
    if partitions is not None:
        request["partitions"] = partitions
    if replication_factor is not None:
        request["replication_factor"] = replication_factor
    if config:
        request["configs"] = parse_configs(config)
    if validate_only:
        request["validate_only"] = True
    body = json.dumps(request).encode()
    answer = session.connect().request("POST", routes.TOPICS, body=body)
    if session.output.as_json:
        session.output.document(answer.document())
        return
    topic = answer.decoded(TopicDescription)
    for warning in topic.warnings:
        session.output.note(f"warning: {warning}")
    verb = "could be created" if validate_only else "created"
    count = len(topic.partitions)
    session.output.note(f"{name} {verb} with {count} partition{'' if count == 1 else 's'}")


@app.command("describe")
def describe_topic(context: typer.Context, name: TopicName) -> None:
    """Show a topic's partitions, leaders, replicas and configs."""
    from ottla_ops.cli.http_connection import path_of
    from ottla_protocol import routes
    from ottla_protocol.models import TopicDescription

    session = session_of(context)
    answer = session.connect().request("GET", path_of(routes.TOPIC, topic=name))
    if session.output.as_json:
        session.output.document(answer.document())
        return
    topic = answer.decoded(TopicDescription)
    session.output.text(f"topic        {topic.name}")
    session.output.text(f"topic id     {topic.topic_id}")
    session.output.text(f"replication  {_replication_factor(topic)}")
    for config_name, value in sorted(topic.configs.items()):
        session.output.text(f"config       {config_name}={_config_text(value)}")
    session.output.text("")
    rows = [
        (
            each.partition,
            "none" if each.leader is None else each.leader,
            each.leader_epoch,
            _joined(each.replicas),
            _joined(each.isr),
        )
        for each in sorted(topic.partitions, key=lambda each: each.partition)
    ]
    session.output.table(("PARTITION", "LEADER", "LEADER-EPOCH", "REPLICAS", "ISR"), rows)


@app.command("alter")
def alter_topic(
    context: typer.Context,
    name: TopicName,
    *,
    config: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A config to set; may be repeated."),
    ] = None,
    reset: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A config to return to its default; may be repeated."),
    ] = None,
    partitions: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="How many partitions there are to be in all."),
    ] = None,
) -> None:
    """Change a topic's configs, or give it more partitions; configs come first."""
    from ottla_ops.cli.http_connection import path_of
    from ottla_protocol import routes
    from ottla_protocol.models import TopicConfigs, TopicDescription

    session = session_of(context)
    configs: dict[str, str | None] = {**parse_configs(config or [])}
    for config_name in reset or []:
        if config_name in configs:
            raise usage_error(f"--reset {config_name}: it is named twice")
        configs[config_name] = None
    if not configs and partitions is None:
        raise usage_error("nothing to change; see --config, --reset and --partitions")
    connection = session.connect()
    document: dict[str, Any] = {"name": name}
    if configs:
        # Setting what is set already changes nothing, so a lost answer does no harm.
        answer = connection.request(
            "PATCH",
            path_of(routes.TOPIC_CONFIGS, topic=name),
            body=json.dumps({"configs": configs}).encode(),
            repeatable=True,
        )
        document["configs"] = answer.document()["configs"]
        altered = answer.decoded(TopicConfigs).configs
        for config_name in sorted(configs):
            config_value = altered[config_name]
            text = _config_text(config_value.value)
            suffix = " (the default)" if config_value.source == "default" else ""
            session.output.note(f"{name}: {config_name}={text}{suffix}")
    if partitions is not None:
        answer = connection.request(
            "PATCH",
            path_of(routes.TOPIC, topic=name),
            body=json.dumps({"partitions": partitions}).encode(),
        )
        document["partitions"] = answer.document()["partitions"]
        count = len(answer.decoded(TopicDescription).partitions)
        session.output.note(f"{name} has {count} partitions now")
    if session.output.as_json:
        session.output.document(document)


@app.command("delete")
def delete_topic(
    context: typer.Context,
    name: TopicName,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a topic and all of its records."""
    from ottla_ops.cli.http_connection import path_of
    from ottla_protocol import routes

    session = session_of(context)
    if not yes:
        confirm(f"Delete topic {name} and all of its records?")
    session.connect().request("DELETE", path_of(routes.TOPIC, topic=name))
    if session.output.as_json:
        session.output.document({"name": name, "deleted": True})
        return
    session.output.note(f"{name} deleted")


def parse_configs(pairs: list[str]) -> dict[str, str]:
    """`NAME=VALUE` pairs as a mapping.

    Raises:
        CommandError: (usage) one has no `=` or no name, or a name comes twice.
    """
    configs: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise usage_error(f"--config {pair}: not of the form NAME=VALUE")
        if name in configs:
            raise usage_error(f"--config {name} is given twice")
        configs[name] = value
    return configs


def _config_text(value: object) -> str:
    """A config's value as `--config` takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _replication_factor(topic: "TopicDescription") -> int:
    return max((len(each.replicas) for each in topic.partitions), default=0)


def _joined(node_ids: list[int]) -> str:
    return ",".join(map(str, node_ids)) or "none"
