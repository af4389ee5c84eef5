"""The metadata image as the Raft driver's state machine: applied, saved as a snapshot, restored."""

from collections.abc import Sequence

from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.telemetry import METRICS
from ottla_cluster.controller.features import check_supported
from ottla_cluster.controller.image import MetadataImage
from ottla_cluster.controller.image_sharing import sharing_with
from ottla_cluster.controller.records import CorruptMetadataError, decode_records
from ottla_cluster.controller.replay import replay
from ottla_cluster.controller.snapshot import decode_image, encode_image
from ottla_cluster.raft.messages import Entry, EntryKind, Snapshot


class MetadataStateMachine:
    """Publishes every image that the metadata log makes.

    Args:
        metadata: where the images go.
    """

    def __init__(self, metadata: MetadataCache) -> None:
        self._metadata = metadata

    def apply(self, entries: Sequence[Entry]) -> None:
        """Replay committed entries, in order.

        Raises:
            CorruptMetadataError: an entry does not parse.
            FeatureLevelTooHighError: the cluster has gone beyond this version of Ottla.
        """
        image = self._metadata.image
        for entry in entries:
            # Who votes is the quorum's own affair; such an entry only has its place in the log.
            has_records = entry.payload and entry.kind is EntryKind.STATE_MACHINE
            image = replay(image, decode_records(entry.payload) if has_records else (), entry.index)
            # Before the next entry, which may hold what only that level knows.
            check_supported(image.feature_level)
        self._publish(image)

    def snapshot(self) -> bytes:
        """The image as of the last applied entry."""
        return encode_image(self._metadata.image)

    def restore(self, snapshot: Snapshot) -> None:
        """Jump to the image of a snapshot; what it does not change stays the same object.

        Raises:
            CorruptMetadataError: it does not parse, or is not of the index that it claims.
            FeatureLevelTooHighError: the cluster has gone beyond this version of Ottla.
        """
        image = decode_image(snapshot.data)
        if image.version != snapshot.index:
            raise CorruptMetadataError(
                f"The snapshot of index {snapshot.index} holds the metadata of version "
                f"{image.version}."
            )
        check_supported(image.feature_level)
        self._publish(sharing_with(self._metadata.image, image))

    def _publish(self, image: MetadataImage) -> None:
        self._metadata.publish(image)
        METRICS.metadata_version.set(image.version)
