"""Which replicas something has happened to since somebody looked.

A broker hosts thousands of replicas, and nothing happens to most of them. What has to be done now
and then (expire lagging followers, remove files, heal, count what is queued) is therefore done for
the replicas that are noted here, and costs nothing for the others. Whoever changes something notes
it; whoever looks takes the note away once there is nothing more to do. A note too many costs one
look, so in doubt there is one.
"""

ReplicaKey = tuple[str, int]
"""Topic id and partition."""


class ReplicaActivity:
    """The notes of one broker; partitions and their manager write them."""

    def __init__(self) -> None:
        self.restless: set[ReplicaKey] = set()
        """Leaders for which time may decide something: see `PartitionLeader.is_at_rest`."""
        self.appended: set[ReplicaKey] = set()
        """Replicas whose logs may have batches queued for the disk."""
        self.log_start_moved: set[ReplicaKey] = set()
        """Replicas whose logs may have files below their start."""
        self.unfit: set[ReplicaKey] = set()
        """Replicas whose logs may be damaged, or lack records."""
        self.watermarks_moved = True
        """Whether a high watermark is another than when they were last written down."""
        self.roles_version = 0
        """Rises with every change of a role."""
