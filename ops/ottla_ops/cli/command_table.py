"""What the root of `ottla` offers, as data: global options, and commands by module.

Importing typer takes longer than a person wants to wait for `--help`, and importing all commands
longer still. So the root knows its commands by name, module and one line; `app` imports the module
of the one that is called, and `root_help` prints the page with none of them.
"""

from typing import Final, NamedTuple

from ottla_ops.cli import exit_codes


class CommandEntry(NamedTuple):
    """A command or group of the root.

    Attributes:
        module: where it is.
        attribute: the function, or the group's `typer.Typer`.
        help: one line; the first sentence of what the command's own `--help` says.
    """

    module: str
    attribute: str
    help: str


class GlobalOption(NamedTuple):
    """An option of the root, which may stand anywhere.

    Attributes:
        names: all of its spellings, the long one last.
        metavar: what its value is called; None for a flag.
        help: what it does.
    """

    names: tuple[str, ...]
    metavar: str | None
    help: str


DESCRIPTION: Final = f"""\
Work with an Ottla cluster: a replicated, partitioned commit log over HTTP.

Data goes to stdout, everything else to stderr. Global options may stand anywhere. Which cluster
is meant, a flag says before the environment, that before the context in use.
Exit codes: {exit_codes.summary()}; those of `ottla check` are a monitoring plugin's.
"""

BOOTSTRAP: Final = GlobalOption(
    ("--bootstrap",),
    "URLS",
    "URLs of brokers, comma-separated.  [env var: OTTLA_BOOTSTRAP; default: those of "
    "the context in use, else of `make start`, ports 7101 to 7103 here]",
)
CONTEXT: Final = GlobalOption(
    ("--context",),
    "NAME",
    "The cluster that `ottla context add` gave this name.  [env var: OTTLA_CONTEXT]",
)
JSON: Final = GlobalOption(("--json",), None, "Print JSON: one object, or NDJSON for records.")
QUIET: Final = GlobalOption(("-q", "--quiet"), None, "Print nothing on stderr but errors.")
EXPLAIN_CONFIG: Final = GlobalOption(
    ("--explain-config",), None, "Print what a command would go by, and who says so; do nothing."
)
VERSION: Final = GlobalOption(("--version",), None, "Print the version.")

GLOBAL_OPTIONS: Final = (
    BOOTSTRAP,
    CONTEXT,
    JSON,
    QUIET,
    EXPLAIN_CONFIG,
    VERSION,
    GlobalOption(("--install-completion",), None, "Install completion for the current shell."),
    GlobalOption(
        ("--show-completion",),
        None,
        "Show completion for the current shell, to copy it or customize the installation.",
    ),
    GlobalOption(("-h", "--help"), None, "Show this message and exit."),
)
"""In the order of the page; the last three are typer's own."""


COMMANDS: Final = {
    name: CommandEntry(f"ottla_ops.cli.{module}", attribute, line)
    for name, module, attribute, line in (
        (
            "topic",
            "topic_commands",
            "app",
            "Topics: list, create, describe, alter, trim, delete.",
        ),
        (
            "produce",
            "produce_command",
            "produce",
            "Write each line of stdin or a file as a record.",
        ),
        ("consume", "consume_command", "consume", "Print the records of a topic, one a line."),
        ("tail", "tail_command", "tail", "Print the last records of a topic, and follow it."),
        ("group", "group_commands", "app", "Consumer groups: list, describe, seek, delete."),
        (
            "transaction",
            "transaction_commands",
            "app",
            "Transactions: list, describe, open, abort, find-hanging.",
        ),
        ("query", "query_command", "query", "Ask topics with SQL: each is a table of its name."),
        (
            "cluster",
            "cluster_group",
            "app",
            "Brokers, controller, leaders and replicas; health, quorum.",
        ),
        (
            "metadata",
            "metadata_commands",
            "app",
            "What Kafka kept in ZooKeeper, live and read-only.",
        ),
        ("segment", "segment_group", "app", "Look into segments: list, dump, verify, export."),
        ("backup", "backup_commands", "app", "Back topics up while they are in use; verify."),
        ("restore", "restore_command", "restore", "Restore topics of a backup, at their offsets."),
        ("check", "check_commands", "app", "For Nagios and its like: cluster, topic, group."),
        ("doctor", "doctor_command", "doctor", "Examine this machine and the brokers."),
        ("bench", "bench_command", "bench", "How fast the cluster is: MB/s, p50, p99."),
        (
            "debug-bundle",
            "debug_bundle_command",
            "debug_bundle",
            "Gather what tells of a fault in one tar.gz.",
        ),
        ("context", "context_commands", "app", "Named clusters: list, add, use, remove, show."),
        (
            "generate",
            "generate_group",
            "app",
            "Files: alarms, dashboards, units, manifests, completion.",
        ),
        ("dev", "dev_commands", "app", "A local cluster: supervise, reset, banner."),
    )
}
"""In the order of the page; lines are short enough for a terminal of 80 columns."""
