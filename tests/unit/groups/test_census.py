"""How many groups there are, by state."""

from ottla_cluster.groups import census
from ottla_cluster.groups.census import Census
from ottla_cluster.groups.commands import DeleteGroup
from tests.unit.groups.groups_under_test import GroupsUnderTest


def test_groups_are_counted_by_state_and_members_in_all(monkeypatch):
    groups, counting = GroupsUnderTest(), Census()
    worked_out = []
    real = census.group_state
    monkeypatch.setattr(
        census, "group_state", lambda group: worked_out.append(group.group_id) or real(group)
    )

    def counted():
        counts = counting.count(groups.image)
        return counts.groups["empty"], counts.groups["reconciling"], counts.groups["stable"]

    assert counted() == (0, 0, 0)
    groups.join("a", group="busy")
    groups.join("a", group="moving")
    groups.join("b", group="moving")
    groups.commit(0, 1)
    assert counted() == (1, 1, 1)
    assert counting.count(groups.image).members == 3
    worked_out.clear()
    groups.commit(0, 2)
    assert counted() == (1, 1, 1)
    assert worked_out == [], "offsets change no state"
    groups.settle("moving")
    groups.apply(DeleteGroup("g"))
    assert counted() == (0, 0, 2)
    assert worked_out == ["moving"]
