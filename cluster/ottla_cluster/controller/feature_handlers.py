"""The handler that raises the cluster's feature level."""

from ottla_cluster.controller.commands import (
    FeatureLevelUpgradedResponse,
    UpgradeFeatureLevel,
)
from ottla_cluster.controller.features import LATEST_FEATURE_LEVEL
from ottla_cluster.controller.image import MetadataImage
from ottla_cluster.controller.records import FeatureLevelChanged, MetadataRecord
from ottla_cluster.state_machine.result import Result
from ottla_protocol.errors import InvalidRequestError


def upgrade_feature_level(
    image: MetadataImage, command: UpgradeFeatureLevel
) -> Result[MetadataRecord, FeatureLevelUpgradedResponse]:
    """Raises the feature level; whoever submits this has asked all processes for what they support.

    A process that does not, and joins between the question and the decision, stops when it reads
    the record, and says why.

    Raises:
        InvalidRequestError: the level would fall, or is above what this controller supports.
    """
    former, wanted = image.feature_level, command.feature_level
    if wanted > LATEST_FEATURE_LEVEL:
        raise InvalidRequestError(
            f"feature_level must be at most {LATEST_FEATURE_LEVEL}, the highest that the "
            f"controller supports, not {wanted}.",
            field="feature_level",
        )
    if wanted < former:
        raise InvalidRequestError(
            f"feature_level must be at least {former}, for it never falls: the log already holds "
            f"what level {wanted} does not know.",
            field="feature_level",
        )
    records = (FeatureLevelChanged(wanted),) if wanted > former else ()
    return Result(records, FeatureLevelUpgradedResponse(former, wanted))
