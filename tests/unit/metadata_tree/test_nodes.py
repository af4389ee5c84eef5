"""Trees of any shape: finding, listing in pages, walking in parts."""

from hypothesis import given
from hypothesis import strategies as st

from ottla_cluster.metadata_tree.nodes import (
    children,
    find,
    leaf,
    listing,
    name_key,
    not_loaded,
    walk,
)

NAMES = st.sampled_from(["0", "1", "2", "10", "11", "007", "a", "B", "b10", "b9", "x/y", "%"])
SHAPES = st.recursive(
    st.just({}), lambda below: st.dictionaries(NAMES, below, max_size=4), max_leaves=25
)


def tree(shape):
    return listing(lambda: tuple(shape), lambda name: tree(shape[name]) if name in shape else None)


def all_paths(shape, path=()):
    """Every path, in order, as the plainest of recursions tells them."""
    for name in sorted(shape, key=name_key):
        yield (*path, name)
        yield from all_paths(shape[name], (*path, name))


def walked(node, limit):
    """All parts of a walk, each going on where the one before ended."""
    after = ()
    while True:
        part = walk(node, limit, after)
        assert len(part.paths) <= limit
        yield from part.paths
        if not part.has_more:
            return
        after = part.paths[-1]


def test_numbers_are_ordered_by_value_and_before_names():
    assert sorted(["b", "10", "9", "a", "1"], key=name_key) == ["1", "9", "10", "a", "b"]


@given(SHAPES, st.integers(1, 6))
def test_a_walk_in_parts_tells_every_path_once_and_in_order(shape, limit):
    assert list(walked(tree(shape), limit)) == list(all_paths(shape))


@given(SHAPES)
def test_every_path_of_a_walk_is_found_and_listed_by_its_parent(shape):
    root = tree(shape)
    for path in walk(root, 1_000).paths:
        found = find(root, path)
        assert found.depth == len(path)
        parent = find(root, path[:-1]).node
        assert path[-1] in children(parent, 1_000)[0]


@given(SHAPES, st.lists(NAMES, max_size=6).map(tuple))
def test_what_is_not_there_names_its_nearest_ancestor(shape, path):
    found = find(tree(shape), path)
    known = {(), *all_paths(shape)}
    assert path[: found.depth] in known
    if found.depth < len(path):
        assert path[: found.depth + 1] not in known


@given(SHAPES, st.lists(NAMES, min_size=1, max_size=5).map(tuple))
def test_a_walk_goes_on_behind_a_path_that_is_gone(shape, after):
    def order(path):
        return [name_key(name) for name in path]

    expected = [path for path in all_paths(shape) if order(path) > order(after)]
    assert walk(tree(shape), 1_000, after).paths == expected


@given(st.sets(NAMES), st.integers(1, 4))
def test_pages_of_children_are_all_children_once_in_order(names, limit):
    node = tree({name: {} for name in names})
    found, after = [], None
    while True:
        page, has_more = children(node, limit, after)
        found += page
        if not has_more:
            break
        assert len(page) == limit
        after = page[-1]
    assert found == sorted(names, key=name_key)


def test_a_walk_stops_before_what_is_not_loaded_and_names_it():
    shape = {"a": leaf(), "b": not_loaded(), "c": leaf()}
    root = listing(lambda: tuple(shape), shape.get)
    part = walk(root, 10)
    assert part.paths == [("a",), ("b",)]
    assert (part.has_more, part.not_loaded) == (True, ("b",))
    # Whoever asks for less does not need it yet.
    assert walk(root, 1).not_loaded is None


def test_a_walk_makes_no_child_that_it_does_not_tell():
    made = []

    def child(name):
        made.append(name)
        return leaf()

    root = listing(lambda: tuple(map(str, range(100))), child)
    walk(root, 3, ("50",))
    assert len(made) <= 5
