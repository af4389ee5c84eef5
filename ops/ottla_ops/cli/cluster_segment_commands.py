"""`ottla segment list|dump|verify` without a path: the replicas of a topic in a cluster."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from ottla_ops.cli.cluster_segments import ClusterSegments, ReplicaName
from ottla_ops.cli.failures import CommandError, usage_error
from ottla_ops.cli.library_failures import failures_told
from ottla_ops.cli.segment_output import dump_lines, json_of, shown_time
from ottla_ops.cli.session import Session
from ottla_protocol.counted_nouns import counted
from ottla_protocol.models_segments import VerifiedSegment


@dataclass(frozen=True, slots=True)
class WantedReplicas:
    """Which replicas a command is about.

    Attributes:
        topic: whose; a cluster has too many to look into all.
        partition: only this one.
        broker: only those on this broker.
        timeout_s: how long to keep trying a broker that does not answer.
    """

    topic: str | None
    partition: int | None
    broker: int | None
    timeout_s: float


def list_in_cluster(session: Session, wanted: WantedReplicas) -> None:
    """Print what the replicas hold."""
    documents: list[dict[str, Any]] = []
    replicas: list[dict[str, Any]] = []
    rows: list[tuple[object, ...]] = []
    with _opened(session, wanted) as cluster:
        for name in cluster.replicas(wanted.partition, wanted.broker):
            for part in cluster.list_segments(name):
                description = msgspec.to_builtins(part)
                segments = description.pop("segments")
                del description["next_offset"]
                if description not in replicas:
                    replicas.append(description)
                whose = {"topic": part.topic, "partition": part.partition, "replica": part.replica}
                documents += [{**whose, "role": part.role, **each} for each in segments]
                rows += [
                    (
                        part.topic,
                        part.partition,
                        part.replica,
                        part.role,
                        each.state,
                        each.base_offset,
                        "unknown" if each.end_offset is None else each.end_offset,
                        each.batches,
                        each.records,
                        each.size_bytes,
                        shown_time(each.first_timestamp),
                        shown_time(each.last_timestamp),
                        each.aborted_transactions,
                    )
                    for each in part.segments
                ]
        if session.output.as_json:
            session.output.document({"segments": documents, "replicas": replicas})
        else:
            where = ("TOPIC", "PARTITION", "REPLICA", "ROLE", "STATE")
            what = ("FIRST", "END", "BATCHES", "RECORDS", "BYTES", "OLDEST", "NEWEST", "ABORTED")
            session.output.table((*where, *what), rows)
        cluster.raise_failures()


def dump_in_cluster(
    session: Session,
    wanted: WantedReplicas,
    first: int | None,
    last: int | None,
    *,
    decode: bool,
) -> None:
    """Print the batches of each partition's leader, or of the broker that is named."""
    output = session.output
    with failures_told(), _opened(session, wanted) as cluster:
        for name in cluster.replicas(wanted.partition, wanted.broker, leaders_only=True):
            for dumped in cluster.dump(name, first, last, decode=decode):
                if output.as_json:
                    output.lines([json_of({**dumped.document(), "replica": name.node_id})])
                else:
                    output.lines(dump_lines(dumped))


def verify_in_cluster(session: Session, wanted: WantedReplicas) -> None:
    """Have every replica verified, and print what is damaged."""
    output = session.output
    found: list[dict[str, Any]] = []
    with _opened(session, wanted) as cluster:
        for name in cluster.replicas(wanted.partition, wanted.broker):
            for part in cluster.verify(name):
                _add(found, name, part)
                if not output.as_json:
                    _print_findings(session, name, part)
        damaged = sum(bool(each["findings"]) for each in found)
        if output.as_json:
            output.document({"segments": found, "damaged_segments": damaged})
        summary = (
            f"{counted(len(found), 'segment')}, "
            f"{counted(sum(each['batches'] for each in found), 'batch', 'batches')}, "
            f"{counted(sum(each['records'] for each in found), 'record')}"
        )
        if damaged:
            raise CommandError(
                f"{damaged} of {summary} damaged",
                code="CORRUPT_MESSAGE",
                hint="`--broker` and `--partition` look again at one replica",
            )
        cluster.raise_failures()
        output.note(f"{summary}: all as they were written")


@contextmanager
def _opened(session: Session, wanted: WantedReplicas) -> Iterator[ClusterSegments]:
    if wanted.topic is None:
        raise usage_error("--topic is needed to look into a cluster; PATH looks into files")
    connection = session.connect()
    try:
        yield ClusterSegments(connection, wanted.topic, wanted.timeout_s)
    finally:
        connection.close()


def _add(found: list[dict[str, Any]], name: ReplicaName, part: VerifiedSegment) -> None:
    """Add a part to what was found of its segment; parts of one follow one another."""
    last = found[-1] if found else None
    if last is None or (last["replica"], last["file"]) != (name.node_id, part.file):
        whose = {"partition": name.partition, "replica": name.node_id}
        found.append({**whose, **msgspec.to_builtins(part)})
        return
    last["end_offset"] = part.end_offset
    last["batches"] += part.batches
    last["records"] += part.records
    last["findings"] += msgspec.to_builtins(part.findings)
    last["sealed"] = part.sealed
    last["is_complete"] = last["is_complete"] and part.is_complete


def _print_findings(session: Session, name: ReplicaName, part: VerifiedSegment) -> None:
    for finding in part.findings:
        where = "" if finding.offset is None else f" offset {finding.offset}:"
        session.output.text(f"broker {name.node_id}: {finding.file}:{where} {finding.reason}")
    if not part.is_complete:
        session.output.text(
            f"broker {name.node_id}: {part.file}: not read beyond offset {part.end_offset - 1}"
        )
    session.output.flush()
