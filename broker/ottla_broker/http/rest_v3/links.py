"""Where the resources of the REST Proxy API are: URLs, and names across clusters."""

from dataclasses import dataclass
from urllib.parse import quote

from ottla_protocol.models_rest_v3 import CollectionMetadata, Related, ResourceMetadata

SINGULARS = {
    "brokers": "broker",
    "topics": "topic",
    "configs": "config",
    "partitions": "partition",
    "replicas": "replica",
    "consumer-groups": "consumer-group",
    "consumers": "consumer",
    "assignments": "assignment",
    "lags": "lag",
}
"""What one resource of a collection is called in a name across clusters."""


@dataclass(frozen=True, slots=True)
class Links:
    """Links below one cluster.

    Segments are those of the path below the cluster: collections and names by turns, perhaps with
    one word behind them.

    Attributes:
        base_url: scheme, host and port by which the client came.
        cluster_id: the cluster's id.
    """

    base_url: str
    cluster_id: str

    def url(self, *segments: str | int) -> str:
        """The URL of a resource."""
        path = "".join(f"/{quote(str(segment), safe='-._~:')}" for segment in segments)
        return f"{self.base_url}/v3/clusters/{quote(self.cluster_id, safe='-._~')}{path}"

    def related(self, *segments: str | int) -> Related:
        """A link to it."""
        return Related(self.url(*segments))

    def metadata(self, *segments: str | int) -> ResourceMetadata:
        """What the resource tells of itself."""
        names = iter(segments)
        parts = []
        for collection in names:
            name = next(names, None)
            singular = SINGULARS.get(str(collection), str(collection))
            parts.append(f"/{singular}" if name is None else f"/{singular}={name}")
        return ResourceMetadata(
            self.url(*segments), f"crn:///kafka={self.cluster_id}{''.join(parts)}"
        )

    def collection(self, *segments: str | int) -> CollectionMetadata:
        """What the list tells of itself."""
        return CollectionMetadata(self.url(*segments))
