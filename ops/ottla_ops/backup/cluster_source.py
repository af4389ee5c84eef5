"""What a backup reads of a running cluster: topics, bounds, batches as they are stored, groups."""

from typing import Final

from ottla_cluster.controller.features import CURSOR_EPOCHS, TRANSACTIONS
from ottla_cluster.controller.topic_names import is_internal
from ottla_ops.backup.leader_calls import LeaderCalls
from ottla_ops.backup.manifest import GroupBackup, GroupOffset
from ottla_ops.cli.failures import CommandError, ExitCode
from ottla_ops.cli.http_connection import Answer, HttpConnection, path_of
from ottla_protocol import routes
from ottla_protocol.errors import error_from_problem
from ottla_protocol.models import (
    BinaryFetchRequest,
    BinaryFetchResponse,
    ClusterDescription,
    FetchedPartition,
    OffsetResponse,
    PartitionToFetch,
    TopicConfigs,
    TopicDescription,
    TopicList,
)
from ottla_protocol.models_groups import CommittedOffsets, GroupList

FETCH_WAIT_MS: Final = 500
"""How long a leader may wait for what is to come: all that is asked for is there already."""


class ClusterSource:
    """Reads for a backup; what is unavailable for a while is asked for again.

    Args:
        connection: to any broker.
        timeout_s: how long a call may go without an answer that helps.
    """

    def __init__(self, connection: HttpConnection, *, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._leaders = LeaderCalls(connection, timeout_s=timeout_s)
        self._has_epochs = self._has_transactions = False

    def close(self) -> None:
        """Close the idle connections."""
        self._leaders.close()

    def cluster_id(self) -> str:
        """The cluster's id; to be asked first."""
        cluster = self._get(routes.CLUSTER).decoded(ClusterDescription)
        # An older leader refuses a fetch with an epoch.
        self._has_epochs = cluster.feature_level >= CURSOR_EPOCHS.level
        # Without them an older broker knows no `isolation` there.
        self._has_transactions = cluster.feature_level >= TRANSACTIONS.level
        return cluster.cluster_id

    def topics(self, names: list[str]) -> list[TopicDescription]:
        """The topics of these names; without any, all but the brokers' own.

        Raises:
            CommandError: there is no such topic, or it is the brokers' own.
        """
        for name in names:
            if is_internal(name):
                raise CommandError(
                    f"{name} is the brokers' own; what it says of groups is in every backup",
                    code="INVALID_TOPIC_EXCEPTION",
                    exit_code=ExitCode.USAGE,
                )
        if names:
            path = routes.TOPIC
            return [
                self._get(path_of(path, topic=name)).decoded(TopicDescription)
                for name in dict.fromkeys(names)
            ]
        found = self._get(routes.TOPICS).decoded(TopicList).topics
        return [topic for topic in found if not is_internal(topic.name)]

    def own_configs(self, topic: str) -> dict[str, str | int | float | bool]:
        """The configs that the topic sets itself."""
        found = self._get(path_of(routes.TOPIC_CONFIGS, topic=topic)).decoded(TopicConfigs)
        return {
            name: config.value for name, config in found.configs.items() if config.source == "topic"
        }

    def offset(self, topic: str, partition: int, at: str) -> int:
        """An end of the partition.

        Args:
            topic: its name.
            partition: its number.
            at: `earliest`, where it begins; `latest`, its high watermark; or `stable`, its last
                stable offset, before the first transaction that is open.
        """
        path = path_of(routes.PARTITION_OFFSETS, topic=topic, partition=partition)
        query: dict[str, object] = {"at": at}
        if at == "stable":
            query = {"at": "latest"}
            if self._has_transactions:
                query["isolation"] = "read_committed"
        return self._get(path, **query).decoded(OffsetResponse).offset

    def fetch(
        self, topic: str, partition: int, offset: int, max_bytes: int, last_epoch: int | None
    ) -> FetchedPartition:
        """Whole batches of committed records from `offset` on, from the leader.

        Raises:
            OttlaError: what the leader answered: OffsetOutOfRangeError below the log's start,
                LogTruncatedError where it has not got what was read up to `offset`.
        """
        epoch = last_epoch if self._has_epochs else None
        wanted = PartitionToFetch(topic, partition, offset, max_bytes, last_fetched_epoch=epoch)
        request = BinaryFetchRequest(
            [wanted], max_wait_ms=FETCH_WAIT_MS, max_bytes=max_bytes, isolation="read_committed"
        )
        answer = self._leaders.call(topic, partition, routes.FETCH, request, BinaryFetchResponse)
        found = answer.partitions[0]
        if found.error is not None:
            raise error_from_problem(found.error)
        return found

    def groups(self, partitions: dict[str, int]) -> list[GroupBackup]:
        """What the groups have committed for these topics; `partitions` says how many each has."""
        listed = self._get(routes.GROUPS).decoded(GroupList).groups
        found = [
            GroupBackup(listing.group, self._committed(listing.group, partitions))
            for listing in listed
        ]
        return [group for group in found if group.offsets]

    def _committed(self, group: str, partitions: dict[str, int]) -> list[GroupOffset]:
        try:
            answer = self._get(path_of(routes.GROUP_OFFSETS, group=group))
        except CommandError as error:
            if error.exit_code is ExitCode.NOT_FOUND:
                # Gone since it was listed.
                return []
            raise
        return [
            GroupOffset(
                topic=each.topic,
                partition=each.partition,
                offset=each.offset,
                leader_epoch=each.leader_epoch,
                metadata=each.metadata,
                commit_timestamp=each.commit_timestamp,
            )
            for each in answer.decoded(CommittedOffsets).offsets
            if each.partition < partitions.get(each.topic, 0)
        ]

    def _get(self, path: str, **query: object) -> Answer:
        return self._connection.retry(
            lambda: self._connection.request("GET", path, query=query), timeout_s=self._timeout_s
        )
