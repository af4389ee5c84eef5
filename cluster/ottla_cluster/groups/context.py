"""What a decision depends on beside the image and the command."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ottla_cluster.groups.cluster_view import ClusterView

if TYPE_CHECKING:
    from random import Random

    from ottla_cluster.groups.config import GroupConfig


@dataclass(frozen=True, slots=True)
class GroupContext:
    """The surroundings of one decision."""

    config: "GroupConfig"
    view: ClusterView
    """The cluster's topics as this broker knows them; it may be behind."""
    timestamp_ms: int
    """Wall clock: only for what is kept and compared after years, never for sessions."""
    random: "Random"
    """For member ids."""
