"""Requests and responses about the feature level: what every process of the cluster supports."""

from ottla_protocol.models import Request, Response


class FeatureState(Response, frozen=True):
    """Something that the cluster uses from feature level `level` on."""

    name: str
    level: int
    enabled: bool
    description: str


class SupportedLevels(Response, frozen=True):
    """One process and the feature levels that it supports.

    Both are None, and `error` tells why, where it could not be asked. A version that knows of no
    levels supports 1.
    """

    id: int
    url: str
    oldest: int | None
    latest: int | None
    error: str | None = None


class FeaturesResponse(Response, frozen=True):
    """`GET /v1/cluster/features`.

    `upgradable_to` is the highest level that all processes support; None where one of them could
    not be asked.
    """

    feature_level: int
    upgradable_to: int | None
    features: list[FeatureState]
    processes: list[SupportedLevels]


class FeatureUpgradeRequest(Request, frozen=True):
    """`POST /v1/cluster/features`: raise the level.

    None is the latest that the process supports that is asked. `validate_only` only says whether
    the level would be raised.
    """

    feature_level: int | None = None
    validate_only: bool = False


class FeatureUpgradeResponse(Response, frozen=True):
    """The level before, and the one from now on, or that it would be."""

    former_level: int
    feature_level: int
