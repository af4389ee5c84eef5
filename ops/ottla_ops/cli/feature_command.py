"""`ottla cluster features`: what the cluster may use, and the step up after an upgrade."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from ottla_ops.cli.failures import usage_error
from ottla_ops.cli.session import session_of

if TYPE_CHECKING:
    from ottla_ops.cli.session import Session
    from ottla_protocol.models_features import FeaturesResponse, SupportedLevels


def features(
    context: typer.Context,
    *,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Raise the level; it never falls again.")
    ] = False,
    level: Annotated[
        int | None,
        typer.Option(help="The level to raise it to; the latest without."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say whether it would be raised.")
    ] = False,
) -> None:
    """Show the cluster's feature level and what each process supports, or raise the level.

    A newer version of Ottla keeps to what its predecessor understands until the level is raised, so
    processes may be upgraded one after another, and back. Raise it once all of them run.
    """
    session = session_of(context)
    if upgrade:
        _upgrade(session, level, dry_run=dry_run)
        return
    if level is not None or dry_run:
        raise usage_error("--level and --dry-run go with --upgrade")
    _show(session)


def _show(session: "Session") -> None:
    from ottla_protocol import routes
    from ottla_protocol.models_features import FeaturesResponse

    answer = session.connect().request("GET", routes.CLUSTER_FEATURES)
    if session.output.as_json:
        session.output.document(answer.document())
        return
    found = answer.decoded(FeaturesResponse)
    session.output.text(f"feature level  {found.feature_level}")
    session.output.text(f"can rise to    {_upgradable(found)}")
    session.output.text("")
    processes = [(each.id, each.url or "-", _supported(each)) for each in found.processes]
    session.output.table(("NODE", "URL", "SUPPORTS"), processes)
    if found.features:
        session.output.text("")
        rows = [
            (each.name, each.level, "yes" if each.enabled else "no", each.description)
            for each in found.features
        ]
        session.output.table(("FEATURE", "LEVEL", "ENABLED", "WHAT IT IS"), rows)


def _upgrade(session: "Session", level: int | None, *, dry_run: bool) -> None:
    from ottla_protocol import routes
    from ottla_protocol.models_features import FeatureUpgradeResponse

    body = {"feature_level": level, "validate_only": dry_run}
    answer = session.connect().request(
        "POST", routes.CLUSTER_FEATURES, body=json.dumps(body).encode(), repeatable=True
    )
    if session.output.as_json:
        session.output.document(answer.document())
        return
    done = answer.decoded(FeatureUpgradeResponse)
    if done.former_level == done.feature_level:
        session.output.note(f"the feature level is {done.feature_level} already")
    else:
        verb = "would rise" if dry_run else "rose"
        session.output.note(
            f"the feature level {verb} from {done.former_level} to {done.feature_level}"
        )


def _upgradable(found: "FeaturesResponse") -> str:
    if found.upgradable_to is None:
        return "unknown: not all processes could be asked"
    if found.upgradable_to <= found.feature_level:
        return "nothing: it is the highest that all processes support"
    return str(found.upgradable_to)


def _supported(process: "SupportedLevels") -> str:
    if process.latest is None:
        return f"unknown: {process.error}"
    return f"{process.oldest} to {process.latest}"
