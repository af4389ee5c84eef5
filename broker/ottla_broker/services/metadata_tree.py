"""The metadata tree as this broker shows it: the image, and the groups that coordinators tell.

Only what a path needs is asked for: the names of the groups for a list, one group for what is below
it. A walk that comes to groups asks for as many as fit into the answer.
"""

import asyncio
from dataclasses import dataclass

from ottla_broker.drivers.controller_client import ControllerClient
from ottla_broker.drivers.controller_tenure import ControllerTenure
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.raft_driver import RaftDriver
from ottla_broker.services.coordinator_calls import CoordinatorCalls
from ottla_cluster.groups.commands import (
    DescribeGroup,
    DescribeGroupResponse,
    ListGroups,
    ListGroupsResponse,
)
from ottla_cluster.groups.validation import validate_group_id
from ottla_cluster.metadata_tree.nodes import Found, TreeNode, children, find, name_key, walk
from ottla_cluster.metadata_tree.tree import TreeView, metadata_tree
from ottla_protocol.errors import (
    ControllerNotAvailableError,
    GroupIdNotFoundError,
    InvalidGroupIdError,
    InvalidRequestError,
    OttlaError,
    UnknownMetadataPathError,
)
from ottla_protocol.models_tree import TreeNodeDescription
from ottla_protocol.tree_paths import Segments, join_path

CONSUMERS = "consumers"

MAX_DESCRIBED_GROUPS = 50
"""Groups that one part of a walk goes into; each is a question to its coordinator."""

Groups = dict[str, DescribeGroupResponse | None]
"""By name; None for one that is not described (yet)."""


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
            UnavailableError: a group's coordinator did not answer in time.
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
        )

    def _find(self, path: Segments, groups: Groups | None) -> Found:
        return find(metadata_tree(self._view(groups)), path)

    def _view(self, groups: Groups | None) -> TreeView:
        term, leader_id = self._raft.term, self._raft.leader_id
        return TreeView(
            image=self._metadata.image,
            controller=leader_id,
            term=term,
            controller_since_ms=self._tenure.since_ms(term, leader_id),
            voters=self._raft.voter_urls,
            learners=tuple(learner.node_id for learner in self._raft.node.configuration.learners),
            commit_index=self._raft.node.commit_index,
            snapshot_index=self._raft.node.snapshot_index,
            groups=groups,
        )

    # --- recursion --------------------------------------------------------------------------

    async def _walked(
        self, wanted: Look, node: TreeNode, groups: Groups | None, after: Segments
    ) -> TreeNodeDescription:
        part = walk(node, wanted.limit, after)
        if part.not_loaded is not None:
            # It has come to the groups: with them it goes on for as long as the answer has room.
            groups = await self._loaded(groups, (*wanted.path, *after))
            node = self._find(wanted.path, groups).node
            part = walk(node, wanted.limit, after)
        paths = [(*wanted.path, *path) for path in part.paths]
        return self._described(
            wanted,
            node,
            paths=[join_path(path) for path in paths],
            next_cursor=paths[-1] if part.has_more and paths else None,
        )

    async def _loaded(self, groups: Groups | None, cursor: Segments) -> Groups:
        """All groups by name, and those described to which a walk comes first behind `cursor`."""
        known = await self._list_groups() if groups is None else groups
        names = sorted(known, key=name_key)
        if len(cursor) > 1 and cursor[0] == CONSUMERS:
            reached = name_key(cursor[1])
            names = [name for name in names if name_key(name) >= reached]
        wanted = [name for name in names if known[name] is None][:MAX_DESCRIBED_GROUPS]
        described = await asyncio.gather(*(self._describe_group(name) for name in wanted))
        loaded = {**known, **dict(zip(wanted, described, strict=True))}
        # One that went away meanwhile is no group any more.
        gone = {name for name, each in zip(wanted, described, strict=True) if each is None}
        return {name: each for name, each in loaded.items() if name not in gone}

    # --- groups -----------------------------------------------------------------------------

    async def _groups_for(self, path: Segments) -> Groups | None:
        """What must be known of groups to find `path`."""
        if path[:1] != (CONSUMERS,):
            return None
        if len(path) == 1:
            return await self._list_groups()
        group = await self._describe_group(path[1])
        return {} if group is None else {path[1]: group}

    async def _list_groups(self) -> Groups:
        groups: Groups = {}
        for response, _ in await self._calls.ask_all(ListGroups()):
            assert isinstance(response, ListGroupsResponse)
            groups.update((each.group, None) for each in response.groups)
        return groups

    async def _describe_group(self, name: str) -> DescribeGroupResponse | None:
        try:
            validate_group_id(name)
            response, _ = await self._calls.decide(name, DescribeGroup(name), repeatable=True)
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
    ) -> TreeNodeDescription:
        return TreeNodeDescription(
            path=join_path(wanted.path),
            children=names or [],
            value=node.value(),
            note=node.note,
            metadata_version=self._metadata.image.version,
            paths=paths or [],
            next_cursor=None if next_cursor is None else join_path(next_cursor),
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
