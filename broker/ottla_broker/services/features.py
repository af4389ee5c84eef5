"""The cluster's feature level: what it enables, who supports what, and how it rises."""

import asyncio
from collections.abc import Callable, Mapping

from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_client import PeerClient, Purpose
from ottla_broker.drivers.peer_messages import SupportedFeatureLevels
from ottla_broker.services.controller_commands import ControllerCommands
from ottla_cluster.controller.commands import FeatureLevelUpgradedResponse, UpgradeFeatureLevel
from ottla_cluster.controller.features import (
    FEATURES,
    LATEST_FEATURE_LEVEL,
    OLDEST_FEATURE_LEVEL,
    is_enabled,
)
from ottla_protocol import routes
from ottla_protocol.errors import (
    InvalidRequestError,
    NotFoundError,
    OttlaError,
    UnsupportedFeatureLevelError,
)
from ottla_protocol.models_features import (
    FeaturesResponse,
    FeatureState,
    FeatureUpgradeRequest,
    FeatureUpgradeResponse,
    SupportedLevels,
)

QUESTION_TIMEOUT_MS = 2_000
"""How long a process may take to say what it supports."""


class FeatureService:
    """Asks all processes of the cluster what they support, and raises the level.

    Args:
        node_id: of this process.
        is_controller: whether this process may vote about the metadata.
        metadata: names the brokers, and the level.
        commands: the way to the active controller.
        peers: the way to all others.
        member_urls: where the voters are, and who is to become one; they need not be brokers. None
            for one that is somewhere else than this process knows.
    """

    def __init__(
        self,
        *,
        node_id: int,
        is_controller: bool,
        metadata: MetadataCache,
        commands: ControllerCommands,
        peers: PeerClient,
        member_urls: Callable[[], Mapping[int, str | None]],
    ) -> None:
        self._node_id = node_id
        self._is_controller = is_controller
        self._metadata = metadata
        self._commands = commands
        self._peers = peers
        self._member_urls = member_urls

    def supported_here(self) -> SupportedFeatureLevels:
        """What this process supports."""
        return SupportedFeatureLevels(
            OLDEST_FEATURE_LEVEL, LATEST_FEATURE_LEVEL, self._node_id, self._is_controller
        )

    async def describe(self) -> FeaturesResponse:
        """The level, what it enables, and what each process supports."""
        processes = await self._ask_all()
        image = self._metadata.image
        return FeaturesResponse(
            feature_level=image.feature_level,
            upgradable_to=_upgradable_to(processes),
            features=[
                FeatureState(
                    name=feature.name,
                    level=feature.level,
                    enabled=is_enabled(image, feature),
                    description=feature.description,
                )
                for feature in FEATURES
            ],
            processes=processes,
        )

    async def upgrade(self, request: FeatureUpgradeRequest) -> FeatureUpgradeResponse:
        """Raise the level.

        Raises:
            InvalidRequestError: the level would fall, or nobody knows such a level.
            UnsupportedFeatureLevelError: a process does not support it, or could not be asked.
            UnavailableError: no controller decided in time.
        """
        processes = await self._ask_all()
        former = self._metadata.image.feature_level
        wanted = request.feature_level
        if wanted is None:
            wanted = LATEST_FEATURE_LEVEL
        _check_wanted(former, wanted)
        _check_all_support(processes, wanted)
        if request.validate_only or wanted == former:
            return FeatureUpgradeResponse(former, wanted)
        response = await self._commands.change(UpgradeFeatureLevel(wanted), repeatable=True)
        assert isinstance(response, FeatureLevelUpgradedResponse)
        return FeatureUpgradeResponse(response.former_level, response.feature_level)

    async def _ask_all(self) -> list[SupportedLevels]:
        """The quorum and registered brokers, fenced ones too: they may come back as they were."""
        urls = dict(self._member_urls())
        urls |= {broker.node_id: broker.url for broker in self._metadata.image.brokers.values()}
        return await asyncio.gather(
            *(self._ask(node_id, url) for node_id, url in sorted(urls.items()))
        )

    async def _ask(self, node_id: int, url: str | None) -> SupportedLevels:
        if node_id == self._node_id:
            return SupportedLevels(node_id, url or "", OLDEST_FEATURE_LEVEL, LATEST_FEATURE_LEVEL)
        if url is None:
            return SupportedLevels(node_id, "", None, None, "its URL is not known here")
        try:
            answer = await self._peers.call(
                url,
                routes.INTERNAL_FEATURE_LEVELS,
                b"",
                timeout_ms=QUESTION_TIMEOUT_MS,
                answer=SupportedFeatureLevels,
                purpose=Purpose.CLIENT,
            )
        except OttlaError as error:
            if error.code == NotFoundError.code:
                # A version from before there were levels.
                return SupportedLevels(node_id, url, OLDEST_FEATURE_LEVEL, OLDEST_FEATURE_LEVEL)
            return SupportedLevels(node_id, url, None, None, error.detail)
        if answer.node_id not in (None, node_id):
            # Its address went to another one, which cannot speak for it.
            return SupportedLevels(node_id, url, None, None, f"{url} is node {answer.node_id}")
        return SupportedLevels(node_id, url, answer.oldest, answer.latest)


def _upgradable_to(processes: list[SupportedLevels]) -> int | None:
    levels = [process.latest for process in processes]
    return None if None in levels else min(level for level in levels if level is not None)


def _check_wanted(former: int, wanted: int) -> None:
    if not former <= wanted <= LATEST_FEATURE_LEVEL:
        raise InvalidRequestError(
            f"feature_level must be from {former}, the present one, for it never falls, to "
            f"{LATEST_FEATURE_LEVEL}, the highest that this process supports; not {wanted}.",
            field="feature_level",
        )


def _check_all_support(processes: list[SupportedLevels], wanted: int) -> None:
    for process in processes:
        if process.latest is None:
            raise UnsupportedFeatureLevelError(
                f"Node {process.id} could not be asked whether it supports feature level {wanted}: "
                f"{process.error}. Start it, or remove it from the cluster."
            )
        if process.latest < wanted:
            raise UnsupportedFeatureLevelError(
                f"Node {process.id} ({process.url}) supports feature levels up to "
                f"{process.latest}, not {wanted}. Run a newer version there first."
            )
