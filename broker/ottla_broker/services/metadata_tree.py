"""The metadata tree as this broker shows it: the image, and the groups that coordinators tell.

Only what a path needs is asked for: the names of the groups for a list, one group for what is below
it. A walk that comes to groups asks for as many as fit into the answer. Groups whose coordinators
do not answer soon are left out, and the answer says so: an operator looks at the tree just when
something is broken, and the rest of it is as good as ever.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from ottla_broker.drivers.controller_client import ControllerClient
from ottla_broker.drivers.controller_tenure import ControllerTenure
from ottla_broker.drivers.group_coordinators import OFFSETS_TOPIC
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.raft_driver import RaftDriver
from ottla_broker.services.coordinator_calls import CoordinatorCalls
from ottla_cluster.groups.commands import (
    DescribeGroup,
    DescribeGroupResponse,
    ListGroups,
    ListGroupsResponse,
    Response,
)
from ottla_cluster.groups.validation import validate_group_id
from ottla_cluster.metadata_tree.consumers import GroupsByName, SilentGroup
from ottla_cluster.metadata_tree.nodes import Found, TreeNode, children, find, name_key, walk
from ottla_cluster.metadata_tree.tree import TreeView, metadata_tree
from ottla_protocol.counted_nouns import counted
from ottla_protocol.errors import (
    ControllerNotAvailableError,
    GroupIdNotFoundError,
    InvalidGroupIdError,
    InvalidRequestError,
    OttlaError,
    UnavailableError,
    UnknownMetadataPathError,
)
from ottla_protocol.models_tree import TreeNodeDescription
from ottla_protocol.tree_paths import Segments, join_path

CONSUMERS = "consumers"

MAX_DESCRIBED_GROUPS = 50
"""Groups that one part of a walk goes into; each is a question to its coordinator."""

QUESTION_TIMEOUT_MS = 2_000
"""How long coordinators may take to answer, a failover included; a walk asks them twice."""

MAX_NAMED_PARTITIONS = 5
"""Partitions without a coordinator that an answer names."""


@dataclass(frozen=True, slots=True)
class Groups:
    """What is known of groups.

    Attributes:
        by_name: None for one that is not described (yet).
        missing: what is not, and why, in words; empty where every coordinator answered.
    """

    by_name: GroupsByName
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """What to show.

    Attributes:
        path: of the node.
        recursive: whether to tell all paths below it in place of its children.
        limit: how many children or paths at most.
        cursor: the path behind which to go on.
    """

    path: Segments
    recursive: bool
    limit: int
    cursor: Segments | None = None


class MetadataTreeService:
    """Shows the metadata tree."""

    def __init__(
        self,
        *,
        metadata: MetadataCache,
        controller: ControllerClient,
        raft: RaftDriver,
        tenure: ControllerTenure,
        calls: CoordinatorCalls,
    ) -> None:
        self._metadata = metadata
        self._controller = controller
        self._raft = raft
        self._tenure = tenure
        self._calls = calls

    async def look(self, wanted: Look) -> TreeNodeDescription:
        """One node, with a part of what is below it.

        Raises:
            UnknownMetadataPathError: there is no such node; `nearest` is one that there is.
            ControllerNotAvailableError: it is unknown here, and no controller can be asked.
            InvalidRequestError: the cursor is no path below the node.
            UnavailableError: the path is that of groups, and no coordinator of them answered.
        """
        after = _relative(wanted)
        groups = await self._groups_for(wanted.path)
        found = self._find(wanted.path, groups)
        if found.depth < len(wanted.path):
            # Before 'unknown', a look for news: the path may be of a moment ago.
            is_current = await self._controller.catch_up()
            groups = await self._groups_for(wanted.path)
            found = self._find(wanted.path, groups)
            if found.depth < len(wanted.path):
                raise _unknown(wanted.path, found, is_current=is_current)
        if wanted.recursive:
            return await self._walked(wanted, found.node, groups, after)
        names, has_more = children(found.node, wanted.limit, after[0] if after else None)
        return self._described(
            wanted,
            found.node,
            names=names,
            next_cursor=(*wanted.path, names[-1]) if has_more else None,
            missing=groups.missing if groups is not None else "",
        )

    def _find(self, path: Segments, groups: Groups | None) -> Found:
        return find(metadata_tree(self._view(groups)), path)

    def _view(self, groups: Groups | None) -> TreeView:
        term, leader_id = self._raft.term, self._raft.leader_id
        members = self._raft.member_urls
        return TreeView(
            image=self._metadata.image,
            controller=leader_id,
            term=term,
            controller_since_ms=self._tenure.since_ms(term, leader_id),
            voters={node_id: members[node_id] for node_id in self._raft.voter_ids},
            learners=tuple(learner.node_id for learner in self._raft.node.configuration.learners),
            commit_index=self._raft.node.commit_index,
            snapshot_index=self._raft.node.snapshot_index,
            groups=None if groups is None else groups.by_name,
        )

    # --- recursion --------------------------------------------------------------------------

    async def _walked(
        self, wanted: Look, node: TreeNode, groups: Groups | None, after: Segments
    ) -> TreeNodeDescription:
        part = walk(node, wanted.limit, after)
        if part.not_loaded is not None:
            # It has come to the groups: with them it goes on for as long as the answer has room.
            groups = await self._loaded(groups, wanted.path, (*wanted.path, *after))
            node = self._find(wanted.path, groups).node
            part = walk(node, wanted.limit, after)
        paths = [(*wanted.path, *path) for path in part.paths]
        return self._described(
            wanted,
            node,
            paths=[join_path(path) for path in paths],
            next_cursor=paths[-1] if part.has_more and paths else None,
            missing=groups.missing if groups is not None else "",
        )

    async def _loaded(self, groups: Groups | None, path: Segments, cursor: Segments) -> Groups:
        """All groups by name, and those described to which a walk comes first behind `cursor`."""
        listed = await self._list_groups(path) if groups is None else groups
        names = sorted(listed.by_name, key=name_key)
        if len(cursor) > 1 and cursor[0] == CONSUMERS:
            reached = name_key(cursor[1])
            names = [name for name in names if name_key(name) >= reached]
        wanted = [name for name in names if listed.by_name[name] is None][:MAX_DESCRIBED_GROUPS]
        described = await asyncio.gather(*(self._described_or_silent(name) for name in wanted))
        loaded = {**listed.by_name, **dict(zip(wanted, described, strict=True))}
        # One that went away meanwhile is no group any more.
        gone = {name for name, each in zip(wanted, described, strict=True) if each is None}
        silent = sum(isinstance(each, SilentGroup) for each in described)
        return Groups(
            {name: each for name, each in loaded.items() if name not in gone},
            "; ".join(filter(None, (listed.missing, _told_silent(silent)))),
        )

    # --- groups -----------------------------------------------------------------------------

    async def _groups_for(self, path: Segments) -> Groups | None:
        """What must be known of groups to find `path`."""
        if path[:1] != (CONSUMERS,):
            return None
        if len(path) == 1:
            return await self._list_groups(path)
        group = await self._describe_group(path[1])
        return Groups({} if group is None else {path[1]: group})

    async def _list_groups(self, path: Segments) -> Groups:
        """The names that coordinators tell.

        Raises:
            OttlaError: none of them does, and `path` is that of groups alone.
        """
        answers: Mapping[int, Response | OttlaError]
        try:
            answers = await self._calls.ask_each(ListGroups(), timeout_ms=QUESTION_TIMEOUT_MS)
        except UnavailableError as error:
            # Nobody tells whether there are coordinators.
            if path[:1] == (CONSUMERS,):
                raise
            return Groups({}, f"all consumer groups: {error.detail}")
        failures = {
            partition: answer
            for partition, answer in answers.items()
            if isinstance(answer, OttlaError)
        }
        if failures and len(failures) == len(answers) and path[:1] == (CONSUMERS,):
            raise next(iter(failures.values()))
        groups: dict[str, None] = {}
        for answer in answers.values():
            if isinstance(answer, ListGroupsResponse):
                groups.update((each.group, None) for each in answer.groups)
        return Groups(groups, _told_failures(failures))

    async def _described_or_silent(self, name: str) -> DescribeGroupResponse | SilentGroup | None:
        try:
            return await self._describe_group(name)
        except OttlaError as error:
            return SilentGroup(error.detail)

    async def _describe_group(self, name: str) -> DescribeGroupResponse | None:
        try:
            validate_group_id(name)
            response, _ = await self._calls.decide(
                name, DescribeGroup(name), repeatable=True, timeout_ms=QUESTION_TIMEOUT_MS
            )
        except (GroupIdNotFoundError, InvalidGroupIdError):
            return None
        assert isinstance(response, DescribeGroupResponse)
        return response

    def _described(
        self,
        wanted: Look,
        node: TreeNode,
        *,
        names: list[str] | None = None,
        paths: list[str] | None = None,
        next_cursor: Segments | None,
        missing: str,
    ) -> TreeNodeDescription:
        return TreeNodeDescription(
            path=join_path(wanted.path),
            children=names or [],
            value=node.value(),
            note=node.note,
            metadata_version=self._metadata.image.version,
            paths=paths or [],
            next_cursor=None if next_cursor is None else join_path(next_cursor),
            missing=missing,
        )


def _relative(wanted: Look) -> Segments:
    """The cursor, seen from the path.

    Raises:
        InvalidRequestError: it is not below the path, or, without recursion, not its child.
    """
    cursor, depth = wanted.cursor, len(wanted.path)
    if cursor is None:
        return ()
    relative = cursor[depth:]
    if (
        cursor[:depth] != wanted.path
        or not relative
        or (len(relative) > 1 and not wanted.recursive)
    ):
        raise InvalidRequestError(
            f"cursor must be the next_cursor of an answer about {join_path(wanted.path)}, "
            f"not {join_path(cursor)}",
            parameter="cursor",
        )
    return relative


def _told_failures(failures: Mapping[int, OttlaError]) -> str:
    """Whose groups are not listed."""
    if not failures:
        return ""
    named = [f"{OFFSETS_TOPIC}-{partition}" for partition in failures]
    where = ", ".join(named[:MAX_NAMED_PARTITIONS])
    if len(named) > MAX_NAMED_PARTITIONS:
        where += f" and {len(named) - MAX_NAMED_PARTITIONS} more"
    first = next(iter(failures.values()))
    return f"the consumer groups of {where}, whose coordinators do not answer: {first.detail}"


def _told_silent(count: int) -> str:
    if not count:
        return ""
    return f"what is below {counted(count, 'consumer group')}, whose coordinators do not answer"


def _unknown(path: Segments, found: Found, *, is_current: bool) -> OttlaError:
    """What to tell of a path that leads no further than to `found`."""
    if found.node.is_live and not is_current:
        return ControllerNotAvailableError(
            f"{join_path(path)} is unknown here, and no controller can be asked whether it exists"
        )
    nearest = join_path(path[: found.depth])
    return UnknownMetadataPathError(
        f"there is no {join_path(path)}; {nearest} exists", nearest=nearest
    )
