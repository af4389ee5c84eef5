"""Every error that Ottla tells a caller, as one tree.

    OttlaError
    ├── InvalidRequestError          the request is wrong; sending it again cannot help
    ├── NotFoundError                what it names does not exist
    ├── ConflictError                it lost against a newer state: fenced, duplicate, out of order
    ├── RoutingError                 it reached the wrong broker; refresh metadata and try again
    ├── UnavailableError             it may work later
    └── InternalError                the broker failed

Each concrete class carries a `code` (Kafka's name where Kafka has one), the HTTP `status`, whether
a retry may help (`retriable`) and whether the caller should look at fresh metadata first
(`refresh_metadata`). On the wire an error is `application/problem+json` (RFC 9457): `problem()`
renders it, `error_from_problem()` reads it back as the same class.

Errors on writes also say what became of the write (`outcome`): NOT_APPLIED means that nothing was
appended, UNKNOWN that it may have been. Only NOT_APPLIED may be retried without a producer id or an
Idempotency-Key.
"""

from enum import StrEnum
from typing import Any, ClassVar


class Outcome(StrEnum):
    """What became of a write that was answered with an error."""

    NOT_APPLIED = "not_applied"
    UNKNOWN = "unknown"


class OttlaError(Exception):
    """Base of every error that has a code.

    Args:
        detail: one sentence for a person, naming the field and the rule where there is one.
        outcome: for writes, what became of it.
        members: further problem members that the caller needs to go on (leader, bounds, index).
    """

    code: ClassVar[str] = "UNKNOWN_SERVER_ERROR"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Unknown server error"
    retriable: ClassVar[bool] = False
    refresh_metadata: ClassVar[bool] = False

    def __init__(self, detail: str, *, outcome: Outcome | None = None, **members: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.outcome = outcome
        self.members = members

    def problem(self) -> dict[str, Any]:
        """The error as the members of an RFC 9457 problem document."""
        document: dict[str, Any] = {
            "type": f"urn:ottla:error:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "retriable": self.retriable,
        }
        if self.outcome is not None:
            document["outcome"] = self.outcome.value
        document.update(self.members)
        return document

    def with_outcome(self, outcome: Outcome) -> "OttlaError":
        """The same error, saying what became of the write unless it already says so."""
        if self.outcome is None:
            self.outcome = outcome
        return self


# --- the request is wrong -------------------------------------------------------------------


class InvalidRequestError(OttlaError):
    """A field or combination of fields breaks a rule; `detail` names both."""

    code = "INVALID_REQUEST"
    status = 422
    title = "Invalid request"


class MalformedBodyError(InvalidRequestError):
    """The body does not parse; `detail` gives the position."""

    code = "MALFORMED_BODY"
    status = 400
    title = "Malformed body"


class InvalidTopicError(InvalidRequestError):
    """The topic name breaks a naming rule."""

    code = "INVALID_TOPIC_EXCEPTION"
    title = "Invalid topic name"


class InvalidPartitionsError(InvalidRequestError):
    """The number of partitions is out of range."""

    code = "INVALID_PARTITIONS"
    title = "Invalid number of partitions"


class InvalidReplicationFactorError(InvalidRequestError):
    """The replication factor is below one or above the live brokers."""

    code = "INVALID_REPLICATION_FACTOR"
    title = "Invalid replication factor"


class InvalidReplicaAssignmentError(InvalidRequestError):
    """A partition cannot have these replicas."""

    code = "INVALID_REPLICA_ASSIGNMENT"
    title = "Invalid replica assignment"


class InvalidConfigError(InvalidRequestError):
    """A topic config is unknown or out of range."""

    code = "INVALID_CONFIG"
    title = "Invalid config"


class InvalidRequiredAcksError(InvalidRequestError):
    """`acks` is none of 0, 1 and all."""

    code = "INVALID_REQUIRED_ACKS"
    title = "Invalid acks"


class CorruptMessageError(InvalidRequestError):
    """A record batch fails its checks: length, magic, count, CRC-32C or content."""

    code = "CORRUPT_MESSAGE"
    title = "Corrupt record batch"


class InvalidTimestampError(InvalidRequestError):
    """A record's timestamp is further in the future than its topic allows."""

    code = "INVALID_TIMESTAMP"
    title = "Invalid timestamp"


class RecordWithoutKeyError(InvalidRequestError):
    """A record for a compacted topic has no key, so nothing could ever replace it."""

    code = "INVALID_RECORD"
    title = "Record without a key"


class IdempotencyKeyReusedError(InvalidRequestError):
    """The Idempotency-Key was used before with another body."""

    code = "IDEMPOTENCY_KEY_REUSED"
    title = "Idempotency key reused"


class MalformedRequestError(InvalidRequestError):
    """What came is no HTTP request that a broker understands, or is one that it must refuse."""

    code = "MALFORMED_REQUEST"
    status = 400
    title = "Malformed request"


class RequestHeadTooLargeError(InvalidRequestError):
    """The request line or the header fields are over their limit (RFC 6585 section 5)."""

    code = "REQUEST_HEAD_TOO_LARGE"
    status = 431
    title = "Request head too large"


class HostNotAllowedError(InvalidRequestError):
    """The Host is no name of this broker: a page may have had a foreign name lead here."""

    code = "HOST_NOT_ALLOWED"
    status = 403
    title = "Host not allowed"


class OriginNotAllowedError(InvalidRequestError):
    """A web page of another origin asks, and this broker was not told to trust it."""

    code = "ORIGIN_NOT_ALLOWED"
    status = 403
    title = "Origin not allowed"


class MessageTooLargeError(InvalidRequestError):
    """A body, batch or record is over its limit."""

    code = "MESSAGE_TOO_LARGE"
    status = 413
    title = "Message too large"


class NotAcceptableError(InvalidRequestError):
    """The Accept takes none of the media types that the call answers; `offered` lists them."""

    code = "NOT_ACCEPTABLE"
    status = 406
    title = "Not acceptable"


class UnsupportedMediaTypeError(InvalidRequestError):
    """The Content-Type or Content-Encoding is none that this call takes."""

    code = "UNSUPPORTED_MEDIA_TYPE"
    status = 415
    title = "Unsupported media type"


class MethodNotAllowedError(InvalidRequestError):
    """The path exists but not with this method."""

    code = "METHOD_NOT_ALLOWED"
    status = 405
    title = "Method not allowed"


class OffsetOutOfRangeError(InvalidRequestError):
    """The offset is outside [log start, log end]; both bounds are members."""

    code = "OFFSET_OUT_OF_RANGE"
    status = 416
    title = "Offset out of range"
    refresh_metadata = True


class LogTruncatedError(OffsetOutOfRangeError):
    """The reader has read records that an unclean election took out of the log (KIP-320).

    `divergent_offset` is the first offset of `partition` at which the log has another record, or
    none yet: there a reader goes on that has done with the former what it must. `cursor`, where one
    was sent, is the cursor that does so.
    """

    code = "LOG_TRUNCATED"
    title = "Log truncated"


class ClusterAuthorizationFailedError(InvalidRequestError):
    """An internal call without the cluster's secret."""

    code = "CLUSTER_AUTHORIZATION_FAILED"
    status = 403
    title = "Cluster authorization failed"


class InconsistentClusterIdError(InvalidRequestError):
    """The caller belongs to another cluster; both ids are named."""

    code = "INCONSISTENT_CLUSTER_ID"
    status = 403
    title = "Inconsistent cluster id"


class InvalidTransactionTimeoutError(InvalidRequestError):
    """The transaction's time-out is out of the allowed range."""

    code = "INVALID_TRANSACTION_TIMEOUT"
    title = "Invalid transaction timeout"


class InvalidGroupIdError(InvalidRequestError):
    """The group id breaks a naming rule."""

    code = "INVALID_GROUP_ID"
    title = "Invalid group id"


class InvalidSessionTimeoutError(InvalidRequestError):
    """A member's session timeout is outside the coordinator's bounds; both are in the detail."""

    code = "INVALID_SESSION_TIMEOUT"
    title = "Invalid session timeout"


class UnsupportedAssignorError(InvalidRequestError):
    """No assignor of that name, or another one than the group's."""

    code = "UNSUPPORTED_ASSIGNOR"
    title = "Unsupported assignor"


class InvalidVoterChangeError(InvalidRequestError):
    """The metadata quorum cannot have these voters; `detail` gives the rule."""

    code = "INVALID_VOTER_CHANGE"
    title = "Invalid voter change"


class InvalidPatternError(InvalidRequestError):
    """A subscription's pattern does not parse, or is over a limit."""

    code = "INVALID_REGULAR_EXPRESSION"
    title = "Invalid pattern"


# --- what it names does not exist -----------------------------------------------------------


class NotFoundError(OttlaError):
    """No such resource."""

    code = "RESOURCE_NOT_FOUND"
    status = 404
    title = "Not found"


class UnknownTopicOrPartitionError(NotFoundError):
    """No topic or partition of that name."""

    code = "UNKNOWN_TOPIC_OR_PARTITION"
    title = "Unknown topic or partition"
    refresh_metadata = True


class UnknownTopicIdError(NotFoundError):
    """The topic id is not the one that this broker knows for the name."""

    code = "UNKNOWN_TOPIC_ID"
    title = "Unknown topic id"
    retriable = True
    refresh_metadata = True


class CursorOfDeletedTopicError(NotFoundError):
    """The cursor belongs to a topic that was deleted; another one may have its name now."""

    code = "CURSOR_OF_DELETED_TOPIC"
    status = 410
    title = "Cursor of a deleted topic"


class VoterNotFoundError(NotFoundError):
    """The metadata quorum has no voter of that node id."""

    code = "VOTER_NOT_FOUND"
    title = "Voter not found"


class UnknownMetadataPathError(NotFoundError):
    """The metadata tree has no such path; `nearest` is the ancestor that there is."""

    code = "UNKNOWN_METADATA_PATH"
    title = "Unknown metadata path"


class TransactionalIdNotFoundError(NotFoundError):
    """No producer has initialised the transactional id, or nobody has used it for long."""

    code = "TRANSACTIONAL_ID_NOT_FOUND"
    title = "Transactional id not found"


class GroupIdNotFoundError(NotFoundError):
    """There is no group of that id: it has neither members nor committed offsets."""

    code = "GROUP_ID_NOT_FOUND"
    title = "Group id not found"


# --- it lost against a newer state ----------------------------------------------------------


class ConflictError(OttlaError):
    """The request conflicts with the current state."""

    code = "CONFLICT"
    status = 409
    title = "Conflict"


class DuplicateVoterError(ConflictError):
    """The node is a voter of the metadata quorum already, or on its way to become one."""

    code = "DUPLICATE_VOTER"
    title = "Duplicate voter"


class QuorumAtRiskError(ConflictError):
    """Without that voter fewer of the metadata quorum's voters than a majority would be at work."""

    code = "QUORUM_AT_RISK"
    title = "Quorum at risk"


class TopicAlreadyExistsError(ConflictError):
    """The name, or one that equals it after swapping `.` and `_`, is taken."""

    code = "TOPIC_ALREADY_EXISTS"
    title = "Topic already exists"


class RestoreConflictError(ConflictError):
    """The topic is not being restored, or from another backup; or what is sent leaves a hole."""

    code = "RESTORE_CONFLICT"
    title = "Restore conflict"


class FencedLeaderEpochError(ConflictError):
    """The caller's leader epoch is older than this broker's."""

    code = "FENCED_LEADER_EPOCH"
    title = "Fenced leader epoch"
    retriable = True
    refresh_metadata = True


class UnknownLeaderEpochError(ConflictError):
    """The caller's leader epoch is newer than this broker knows yet."""

    code = "UNKNOWN_LEADER_EPOCH"
    title = "Unknown leader epoch"
    retriable = True


class StaleBrokerEpochError(ConflictError):
    """The broker epoch is not that of the broker's current incarnation."""

    code = "STALE_BROKER_EPOCH"
    title = "Stale broker epoch"


class FetchSessionIdNotFoundError(ConflictError):
    """The leader does not know that fetch session (any more); the next fetch has to be full."""

    code = "FETCH_SESSION_ID_NOT_FOUND"
    title = "Fetch session id not found"
    retriable = True


class InvalidFetchSessionEpochError(ConflictError):
    """It is not the fetch that comes next in its session; the next fetch has to be full."""

    code = "INVALID_FETCH_SESSION_EPOCH"
    title = "Invalid fetch session epoch"
    retriable = True


class DuplicateBrokerRegistrationError(ConflictError):
    """Another live process holds this node id."""

    code = "DUPLICATE_BROKER_REGISTRATION"
    title = "Duplicate broker registration"
    retriable = True


class InvalidUpdateVersionError(ConflictError):
    """A compare-and-set found a newer partition epoch."""

    code = "INVALID_UPDATE_VERSION"
    title = "Invalid update version"


class IneligibleReplicaError(ConflictError):
    """A replica proposed for the ISR is fenced or of another incarnation."""

    code = "INELIGIBLE_REPLICA"
    title = "Ineligible replica"


class UnsupportedFeatureLevelError(ConflictError):
    """The cluster's feature level does not allow this yet, or a process does not support it."""

    code = "UNSUPPORTED_FEATURE_LEVEL"
    title = "Unsupported feature level"


class NoReassignmentInProgressError(ConflictError):
    """There is no reassignment of the partition that could be called off."""

    code = "NO_REASSIGNMENT_IN_PROGRESS"
    title = "No reassignment in progress"


class PolicyViolationError(ConflictError):
    """What is asked for is against a rule that an operator has set; the detail names it."""

    code = "POLICY_VIOLATION"
    title = "Policy violation"


class OutOfOrderSequenceNumberError(ConflictError):
    """The batch's sequence does not follow the last one; the expected one is a member."""

    code = "OUT_OF_ORDER_SEQUENCE_NUMBER"
    title = "Out of order sequence number"


class InvalidProducerEpochError(ConflictError):
    """The producer epoch is older than one that this partition has seen."""

    code = "INVALID_PRODUCER_EPOCH"
    title = "Invalid producer epoch"


class DuplicateSequenceNumberError(ConflictError):
    """The sequence is older than the last five batches, so its offset is no longer known."""

    code = "DUPLICATE_SEQUENCE_NUMBER"
    title = "Duplicate sequence number"


class ProducerFencedError(ConflictError):
    """The producer does not hold the transactional id, any more or at all.

    Another producer, or a later start of the same one, has taken it over, and this one can only
    stop; or its transaction is over, and it is to go on with what the commit or abort was
    answered. The detail says which, as far as the coordinator remembers.
    """

    code = "PRODUCER_FENCED"
    title = "Producer fenced"


class InvalidTransactionStateError(ConflictError):
    """The transaction is decided the other way; or none is open, or one is and must not be."""

    code = "INVALID_TXN_STATE"
    title = "Invalid transaction state"


class TransactionAbortableError(ConflictError):
    """The transaction cannot be committed; once the producer has aborted it, the next one can."""

    code = "TRANSACTION_ABORTABLE"
    title = "Transaction must be aborted"


class UnknownMemberIdError(ConflictError):
    """The group has no such member, or no longer: it must join again."""

    code = "UNKNOWN_MEMBER_ID"
    title = "Unknown member id"


class FencedMemberEpochError(ConflictError):
    """The generation is not one in which the member holds the partitions that it names."""

    code = "FENCED"
    title = "Fenced"


class FencedInstanceIdError(ConflictError):
    """Another process joined under this member's instance id: this one must stop."""

    code = "FENCED_INSTANCE_ID"
    title = "Fenced instance id"


class NonEmptyGroupError(ConflictError):
    """The group has members, and what is asked needs one without."""

    code = "NON_EMPTY_GROUP"
    title = "Non-empty group"


# --- it reached the wrong broker ------------------------------------------------------------


class RoutingError(OttlaError):
    """Another broker serves this; refresh metadata and try there."""

    code = "ROUTING"
    status = 421
    title = "Misdirected request"
    retriable = True
    refresh_metadata = True


class NotLeaderOrFollowerError(RoutingError):
    """This broker does not lead the partition; the current leader is a member when known."""

    code = "NOT_LEADER_OR_FOLLOWER"
    title = "Not leader or follower"


class NotControllerError(RoutingError):
    """This node is not the active controller."""

    code = "NOT_CONTROLLER"
    title = "Not controller"


class MismatchedEndpointTypeError(RoutingError):
    """This process is a dedicated controller; `brokers` has URLs of processes that serve this."""

    code = "MISMATCHED_ENDPOINT_TYPE"
    title = "Not a broker"


class NotCoordinatorError(RoutingError):
    """This broker does not coordinate the group; the current coordinator is a member when known."""

    code = "NOT_COORDINATOR"
    title = "Not coordinator"


# --- it may work later ----------------------------------------------------------------------


class UnavailableError(OttlaError):
    """The cluster cannot serve this now."""

    code = "BROKER_NOT_AVAILABLE"
    status = 503
    title = "Broker not available"
    retriable = True


class LeaderNotAvailableError(UnavailableError):
    """The partition has no leader, or its leader does not know its epoch yet."""

    code = "LEADER_NOT_AVAILABLE"
    title = "Leader not available"
    refresh_metadata = True


class ReplicaNotAvailableError(UnavailableError):
    """This broker's copy of the records is damaged; another one has them, or will refill it."""

    code = "REPLICA_NOT_AVAILABLE"
    title = "Replica not available"
    refresh_metadata = True


class PartitionCountChangedError(UnavailableError):
    """The topic has got more partitions since the request was divided among them.

    With its Idempotency-Key it is sent again as it was, and then meets what is stored of it.
    """

    code = "PARTITION_COUNT_CHANGED"
    title = "Number of partitions changed"


class TopicBeingRestoredError(UnavailableError):
    """The topic is being restored from a backup: nobody reads or writes it until it is whole."""

    code = "TOPIC_BEING_RESTORED"
    title = "Topic being restored"


class PreferredLeaderNotAvailableError(UnavailableError):
    """The partition's first replica is not active, or not in sync."""

    code = "PREFERRED_LEADER_NOT_AVAILABLE"
    title = "Preferred leader not available"


class EligibleLeadersNotAvailableError(UnavailableError):
    """No replica of the partition is there to lead it."""

    code = "ELIGIBLE_LEADERS_NOT_AVAILABLE"
    title = "Eligible leaders not available"


class ControllerNotAvailableError(UnavailableError):
    """No controller is known, or it did not answer in time."""

    code = "CONTROLLER_NOT_AVAILABLE"
    title = "Controller not available"


class CoordinatorNotAvailableError(UnavailableError):
    """The group's coordinator is not known, or did not answer in time."""

    code = "COORDINATOR_NOT_AVAILABLE"
    title = "Coordinator not available"
    refresh_metadata = True


class CoordinatorLoadInProgressError(UnavailableError):
    """The coordinator has not read all that its predecessors wrote yet."""

    code = "COORDINATOR_LOAD_IN_PROGRESS"
    title = "Coordinator load in progress"


class ConcurrentTransactionsError(UnavailableError):
    """The producer's last transaction is decided, and its markers are being written."""

    code = "CONCURRENT_TRANSACTIONS"
    title = "Concurrent transactions"


class UnstableOffsetCommitError(UnavailableError):
    """A transaction that is not over yet may change the offset (KIP-447)."""

    code = "UNSTABLE_OFFSET_COMMIT"
    title = "Unstable offset commit"


class GroupMaxSizeReachedError(UnavailableError):
    """The group has as many members as one may have."""

    code = "GROUP_MAX_SIZE_REACHED"
    status = 429
    title = "Group max size reached"


class OffsetNotAvailableError(UnavailableError):
    """Not known to be committed yet, by a new leader; or of a transaction that is not over."""

    code = "OFFSET_NOT_AVAILABLE"
    title = "Offset not available"


class NotEnoughReplicasError(UnavailableError):
    """Fewer replicas are in sync than `min.insync.replicas` asks; nothing was appended."""

    code = "NOT_ENOUGH_REPLICAS"
    title = "Not enough replicas"


class NotEnoughReplicasAfterAppendError(UnavailableError):
    """The ISR shrank below `min.insync.replicas` after the append: the outcome is unknown."""

    code = "NOT_ENOUGH_REPLICAS_AFTER_APPEND"
    title = "Not enough replicas after append"


class VoterChangeInProgressError(UnavailableError):
    """The metadata quorum changes its voters one at a time, and cannot begin with this one yet."""

    code = "VOTER_CHANGE_IN_PROGRESS"
    title = "Voter change in progress"


class LeadershipTransferFailedError(UnavailableError):
    """The voter did not take over the metadata quorum in time, or another one did."""

    code = "LEADERSHIP_TRANSFER_FAILED"
    title = "Leadership transfer failed"


class InsufficientStorageError(UnavailableError):
    """The leader's disk has no room; leadership moves where another in-sync replica has some."""

    code = "INSUFFICIENT_STORAGE"
    status = 507
    title = "Insufficient storage"
    refresh_metadata = True


class OverloadedError(UnavailableError):
    """A named limit of this broker is reached; come back after Retry-After."""

    code = "THROTTLING_QUOTA_EXCEEDED"
    title = "Overloaded"


class RequestNotReceivedError(UnavailableError):
    """The client was too slow in sending its request (RFC 9110 section 15.5.9)."""

    code = "REQUEST_NOT_RECEIVED"
    status = 408
    title = "Request not received"


class RequestTimedOutError(UnavailableError):
    """The deadline passed first."""

    code = "REQUEST_TIMED_OUT"
    status = 504
    title = "Request timed out"


# --- the broker failed ----------------------------------------------------------------------


class InternalError(OttlaError):
    """A defect or a failure inside the broker."""


class StorageError(InternalError):
    """The partition's files failed; the broker stops."""

    code = "KAFKA_STORAGE_ERROR"
    title = "Storage error"


class RecordsLostError(InternalError):
    """The records at this offset are damaged, and no other replica has them.

    `next_offset` is a member: whoever wants the rest reads on from there.
    """

    code = "RECORDS_LOST"
    title = "Records lost"


def _concrete(root: type[OttlaError]) -> dict[str, type[OttlaError]]:
    classes = {root.code: root}
    for child in root.__subclasses__():
        for code, cls in _concrete(child).items():
            classes.setdefault(code, cls)
    return classes


ERRORS_BY_CODE: dict[str, type[OttlaError]] = _concrete(OttlaError)
"""Every code with the class that carries it."""

_STANDARD_MEMBERS = frozenset({"type", "title", "status", "detail", "code", "retriable", "outcome"})


def error_from_problem(document: dict[str, Any]) -> OttlaError:
    """The error that a problem document tells; an unknown code becomes a plain OttlaError."""
    cls = ERRORS_BY_CODE.get(str(document.get("code")), OttlaError)
    outcome = document.get("outcome")
    members = {name: value for name, value in document.items() if name not in _STANDARD_MEMBERS}
    return cls(
        str(document.get("detail") or document.get("title") or "unknown error"),
        outcome=Outcome(outcome) if outcome in set(Outcome) else None,
        **members,
    )
