"""The coordinator's view of the topics, and which of them a pattern matches."""

from hypothesis import given
from hypothesis import strategies as st

from ottla_cluster.groups import cluster_view
from ottla_cluster.groups.cluster_view import TopicIndex, TopicView
from ottla_cluster.groups.pattern import Pattern

NAMES = st.frozensets(st.text("abc", min_size=1, max_size=3), max_size=12)
PATTERNS = ("a.*", ".*b", "(a|c)+", "abc")


def topics(names):
    return {name: TopicView(f"id-{name}", 1) for name in sorted(names)}


@given(st.lists(st.tuples(NAMES, st.sets(st.sampled_from(PATTERNS))), min_size=1, max_size=6))
def test_what_is_remembered_of_former_topics_changes_no_answer(states):
    index = None
    for names, asked in states:
        index = TopicIndex(topics(names), index)
        for pattern in asked:
            wanted = tuple(sorted(name for name in names if Pattern(pattern).matches(name)))
            assert index.matching(pattern) == wanted
            assert index.matching(pattern) == wanted


def test_only_new_names_are_matched(monkeypatch):
    matched = []

    class Counting(Pattern):
        def matches(self, name):
            matched.append(name)
            return super().matches(name)

    monkeypatch.setattr(cluster_view, "Pattern", Counting)
    first = TopicIndex(topics({"a", "b"}))
    assert not first.knows("a.*")
    assert first.matching("a.*") == ("a",)
    assert first.knows("a.*")
    first.matching("a.*")
    assert sorted(matched) == ["a", "b"]
    matched.clear()
    second = TopicIndex(topics({"a", "b", "ab"}), first)
    assert second.knows("a.*")
    assert second.matching("a.*") == ("a", "ab")
    assert matched == ["ab"]


def test_a_bounded_number_of_patterns_is_remembered(monkeypatch):
    monkeypatch.setattr(cluster_view, "MAX_REMEMBERED_PATTERNS", 2)
    index = TopicIndex(topics({"a"}))
    for pattern in ("a", "b", "c"):
        index.matching(pattern)
    assert len(index.remembered()) <= 2
