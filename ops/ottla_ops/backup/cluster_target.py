"""What a restore asks of a running cluster; what is unavailable for a while is asked for again."""

from collections.abc import Sequence

import msgspec

from ottla_ops.backup.leader_calls import LeaderCalls
from ottla_ops.cli.failures import CommandError, ExitCode
from ottla_ops.cli.http_connection import Answer, HttpConnection, path_of
from ottla_protocol import routes
from ottla_protocol.models import TopicDescription
from ottla_protocol.models_groups import CommitOffsetsRequest, OffsetToCommit
from ottla_protocol.models_restores import (
    BeginRestoreRequest,
    FinishRestoreRequest,
    RestoredPosition,
    RestoreRecordsRequest,
)


class ClusterTarget:
    """Writes for a restore. Everything may be sent twice.

    Args:
        connection: to any broker.
        timeout_s: how long a call may go without an answer that helps.
    """

    def __init__(self, connection: HttpConnection, *, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._leaders = LeaderCalls(connection, timeout_s=timeout_s)

    def close(self) -> None:
        """Close the idle connections."""
        self._leaders.close()

    def topic(self, name: str) -> TopicDescription | None:
        """The topic of that name, if there is one."""
        path = path_of(routes.TOPIC, topic=name)
        try:
            return self._retried("GET", path).decoded(TopicDescription)
        except CommandError as error:
            if error.exit_code is ExitCode.NOT_FOUND:
                return None
            raise

    def begin(self, name: str, request: BeginRestoreRequest) -> None:
        """Create the topic for this restore, or find it where that was done before."""
        self._retried("POST", path_of(routes.TOPIC_RESTORE, topic=name), request)

    def append(
        self,
        topic: str,
        partition: int,
        restore_id: str,
        position: int,
        batches: Sequence[bytes],
    ) -> int:
        """Append batches at the partition's leader; where it ends then."""
        path = path_of(routes.PARTITION_RESTORE, topic=topic, partition=partition)
        request = RestoreRecordsRequest(
            restore_id, position, [memoryview(batch) for batch in batches]
        )
        answer = self._leaders.call(topic, partition, path, request, RestoredPosition)
        return answer.next_offset

    def commit(self, group: str, offsets: Sequence[OffsetToCommit]) -> None:
        """Set what a group without members has committed."""
        request = CommitOffsetsRequest(list(offsets))
        self._retried("POST", path_of(routes.GROUP_OFFSETS, group=group), request)

    def finish(self, name: str, restore_id: str) -> None:
        """Give the topic to everybody."""
        path = path_of(routes.TOPIC_RESTORE_FINISH, topic=name)
        self._retried("POST", path, FinishRestoreRequest(restore_id))

    def is_restored(self, name: str, restore_id: str) -> bool:
        """Whether a topic that is there was filled and finished by this restore."""
        try:
            # Changes nothing where it is, and is refused where it is not.
            self.finish(name, restore_id)
        except CommandError as error:
            if error.exit_code is ExitCode.CONFLICT:
                return False
            raise
        return True

    def _retried(self, method: str, path: str, body: msgspec.Struct | None = None) -> Answer:
        encoded = None if body is None else msgspec.json.encode(body)
        return self._connection.retry(
            lambda: self._connection.request(method, path, body=encoded, repeatable=True),
            timeout_s=self._timeout_s,
        )
