"""`ottla topic`: list, create, describe, alter, add-partitions, trim, delete."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ottla_ops.cli.confirmation import confirm
from ottla_ops.cli.failures import CommandError, usage_error
from ottla_ops.cli.session import session_of
from ottla_ops.cli.topic_trimming import trim_topic
from ottla_protocol.counted_nouns import counted

if TYPE_CHECKING:
    from ottla_ops.cli.http_connection import Answer, HttpConnection
    from ottla_protocol.models import TopicDescription

app = typer.Typer(
    help="Topics: list, create, describe, alter, trim, delete.",
    no_args_is_help=True,
)

TopicName = Annotated[str | None, typer.Argument(metavar="TOPIC", help="Name of the topic.")]
TopicOption = Annotated[
    str | None,
    typer.Option("--topic", metavar="TOPIC", help="The same, as kafka-topics takes it."),
]


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
    session.output.table(
        headers, rows, empty="there is no topic; `ottla topic create NAME` makes one"
    )


@app.command("create")
def create_topic(
    context: typer.Context,
    topic_name: TopicName = None,
    *,
    topic_option: TopicOption = None,
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
    if_not_exists: Annotated[
        bool, typer.Option("--if-not-exists", help="Leave a topic of that name as it is.")
    ] = False,
) -> None:
    """Create a topic."""
    from ottla_protocol import routes
    from ottla_protocol.models import TopicDescription

    session = session_of(context)
    name = named_topic(topic_name, topic_option)
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
    connection = session.connect()
    try:
        answer = connection.request("POST", routes.TOPICS, body=body)
    except CommandError as error:
        if not if_not_exists or error.code != "TOPIC_ALREADY_EXISTS":
            raise
        if session.output.as_json:
            session.output.document(_described(connection, name).document())
            return
        session.output.note(f"{name} exists already and was left as it is")
        return
    if session.output.as_json:
        session.output.document(answer.document())
        return
    topic = answer.decoded(TopicDescription)
    for warning in topic.warnings:
        session.output.note(f"warning: {warning}")
    verb = "could be created" if validate_only else "created"
    count = len(topic.partitions)
    session.output.note(f"{name} {verb} with {counted(count, 'partition')}")


@app.command("describe")
def describe_topic(
    context: typer.Context, topic_name: TopicName = None, *, topic_option: TopicOption = None
) -> None:
    """Show a topic's partitions, leaders, replicas and configs."""
    from ottla_protocol.models import TopicDescription

    session = session_of(context)
    name = named_topic(topic_name, topic_option)
    answer = _described(session.connect(), name)
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
    topic_name: TopicName = None,
    *,
    topic_option: TopicOption = None,
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
    """Change a topic's configs, or give it more partitions; configs come first.

    Of the brokers' own topics, __consumer_offsets and __transaction_state, only
    min.insync.replicas and unclean.leader.election.enable can be changed.
    """
    from ottla_ops.cli.http_connection import path_of
    from ottla_protocol import routes
    from ottla_protocol.models import TopicConfigs, TopicDescription

    session = session_of(context)
    name = named_topic(topic_name, topic_option)
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
        answer = _with_partitions(connection, name, partitions)
        document["partitions"] = answer.document()["partitions"]
        count = len(answer.decoded(TopicDescription).partitions)
        session.output.note(f"{name} has {counted(count, 'partition')} now")
    if session.output.as_json:
        session.output.document(document)


@app.command("add-partitions")
def add_partitions(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="TOPIC", help="Name of the topic.")],
    count: Annotated[int, typer.Argument(min=1, metavar="N", help="How many more.")],
) -> None:
    """Give a topic more partitions; `alter --partitions` says how many there are to be in all.

    Keys may be in other partitions from then on.
    """
    from ottla_protocol.models import TopicDescription

    session = session_of(context)
    connection = session.connect()
    before = len(_described(connection, name).decoded(TopicDescription).partitions)
    answer = _with_partitions(connection, name, before + count)
    if session.output.as_json:
        session.output.document(answer.document())
        return
    after = len(answer.decoded(TopicDescription).partitions)
    session.output.note(f"{name} had {counted(before, 'partition')} and has {after} now")


app.command("trim")(trim_topic)


@app.command("delete")
def delete_topic(
    context: typer.Context,
    topic_name: TopicName = None,
    *,
    topic_option: TopicOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a topic and all of its records."""
    from ottla_ops.cli.http_connection import path_of
    from ottla_protocol import routes

    session = session_of(context)
    name = named_topic(topic_name, topic_option)
    if not yes:
        confirm(f"Delete topic {name} and all of its records?")
    session.connect().request("DELETE", path_of(routes.TOPIC, topic=name))
    if session.output.as_json:
        session.output.document({"name": name, "deleted": True})
        return
    session.output.note(f"{name} deleted")


def named_topic(argument: str | None, option: str | None) -> str:
    """The topic that is meant, by argument or by `--topic`.

    Raises:
        CommandError: (usage) none is named, or two are.
    """
    if argument is not None and option is not None:
        raise usage_error(f"the topic is named twice: {argument} and --topic {option}")
    name = option if argument is None else argument
    if name is None:
        raise usage_error("which topic? Name it as argument or with --topic")
    return name


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


def _described(connection: "HttpConnection", name: str) -> "Answer":
    from ottla_ops.cli.http_connection import path_of
    from ottla_protocol import routes

    return connection.request("GET", path_of(routes.TOPIC, topic=name))


def _with_partitions(connection: "HttpConnection", name: str, total: int) -> "Answer":
    from ottla_ops.cli.http_connection import path_of
    from ottla_protocol import routes

    body = json.dumps({"partitions": total}).encode()
    return connection.request("PATCH", path_of(routes.TOPIC, topic=name), body=body)


def _config_text(value: object) -> str:
    """A config's value as `--config` takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _replication_factor(topic: "TopicDescription") -> int:
    return max((len(each.replicas) for each in topic.partitions), default=0)


def _joined(node_ids: list[int]) -> str:
    return ",".join(map(str, node_ids)) or "none"
