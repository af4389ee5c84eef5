"""The encoding of the coordinator's commands and responses; see `commands`."""

import msgspec


class CommandMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """The encoding that all commands share."""


class ResponseMessage(msgspec.Struct, frozen=True, tag_field="type"):
    """The encoding that all responses share."""


class OffsetToCommit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the group goes on in one partition."""

    topic: str
    partition: int
    offset: int
    leader_epoch: int | None = None
    metadata: str = ""
