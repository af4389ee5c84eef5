"""One entry to all handlers: (image, command, context) in, records and a response out.

Handlers are pure. They read the speculative image, so they see what earlier commands did even
before it is committed; the runtime holds back each response until what its handler saw is.
"""

from typing import assert_never

from ottla_cluster.groups.commands import (
    Command,
    CommitOffsets,
    DeleteGroup,
    DescribeGroup,
    ExpireMembers,
    ExpireOffsets,
    FetchOffsets,
    Heartbeat,
    Join,
    Leave,
    ListGroups,
    RefreshTopics,
    Response,
    SeekOffsets,
)
from ottla_cluster.groups.context import GroupContext
from ottla_cluster.groups.group_handlers import delete_group, describe_group, list_groups
from ottla_cluster.groups.image import GroupsImage
from ottla_cluster.groups.instance_commands import (
    AssignInstance,
    CommitInstance,
    CreateInstance,
    DescribeInstance,
    ExpireInstances,
    InstanceCommand,
    MoveInstance,
    OfferRecords,
    PollInstance,
    RemoveInstance,
    SettleDelivery,
    SubscribeInstance,
)
from ottla_cluster.groups.instance_handlers import (
    assign_instance,
    create_instance,
    describe_instance,
    expire_instances,
    remove_instance,
    subscribe_instance,
)
from ottla_cluster.groups.instance_reading import (
    commit_instance,
    move_instance,
    offer_records,
    poll_instance,
    settle_delivery,
)
from ottla_cluster.groups.membership_handlers import (
    expire_members,
    heartbeat,
    join,
    leave,
    refresh_topics,
)
from ottla_cluster.groups.offset_handlers import (
    commit_offsets,
    expire_offsets,
    fetch_offsets,
    seek_offsets,
)
from ottla_cluster.groups.records import GroupRecord
from ottla_cluster.groups.transaction_commands import (
    CommitTransactionOffsets,
    EndTransactionOffsets,
    ForgetProducers,
)
from ottla_cluster.groups.transaction_handlers import (
    commit_transaction_offsets,
    end_transaction_offsets,
    forget_producers,
)
from ottla_cluster.state_machine.result import Result


def handle(  # noqa: C901  one case for each command
    image: GroupsImage, command: Command, context: GroupContext
) -> Result[GroupRecord, Response]:
    """Decides one command.

    Args:
        image: what has been appended so far, committed or not.
        command: what is asked.
        context: the rest that the decision depends on.

    Raises:
        OttlaError: the command is refused; nothing changes. Each handler names its own.
    """
    match command:
        case Heartbeat():
            return heartbeat(image, command, context)
        case CommitOffsets():
            return commit_offsets(image, command, context)
        case CommitTransactionOffsets():
            return commit_transaction_offsets(image, command, context)
        case EndTransactionOffsets():
            return end_transaction_offsets(image, command, context)
        case ForgetProducers():
            return forget_producers(image, command)
        case FetchOffsets():
            return fetch_offsets(image, command, context)
        case Join():
            return join(image, command, context)
        case Leave():
            return leave(image, command, context)
        case ExpireMembers():
            return expire_members(image, command, context)
        case RefreshTopics():
            return refresh_topics(image, command, context)
        case ExpireOffsets():
            return expire_offsets(image, command, context)
        case DescribeGroup():
            return describe_group(image, command, context)
        case ListGroups():
            return list_groups(image)
        case SeekOffsets():
            return seek_offsets(image, command, context)
        case DeleteGroup():
            return delete_group(image, command)
        case ExpireInstances():
            return expire_instances(image, command, context)
        case _:
            return _of_an_instance(image, command, context)


def _of_an_instance(
    image: GroupsImage, command: InstanceCommand, context: GroupContext
) -> Result[GroupRecord, Response]:
    match command:
        case PollInstance():
            return poll_instance(image, command, context)
        case OfferRecords():
            return offer_records(image, command, context)
        case SettleDelivery():
            return settle_delivery(image, command, context)
        case CommitInstance():
            return commit_instance(image, command, context)
        case DescribeInstance():
            return describe_instance(image, command, context)
        case MoveInstance():
            return move_instance(image, command, context)
        case SubscribeInstance():
            return subscribe_instance(image, command, context)
        case AssignInstance():
            return assign_instance(image, command, context)
        case CreateInstance():
            return create_instance(image, command, context)
        case RemoveInstance():
            return remove_instance(image, command, context)
        case _:
            assert_never(command)
