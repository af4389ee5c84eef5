"""What more than one of the coordinator's families of commands has in it; see `commands`."""

import msgspec


class OffsetToCommit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the group goes on in one partition."""

    topic: str
    partition: int
    offset: int
    leader_epoch: int | None = None
    metadata: str = ""
