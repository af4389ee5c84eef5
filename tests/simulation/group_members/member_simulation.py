"""The groups simulation with the SDK's members in the place of its own.

Beyond the rules of `GroupsSimulation` one more is checked, of the members themselves: at every time
at most one of a group believes to own a partition, even one that hears nothing or stands still.
Only the former process of a static member is excepted, for its instance id is taken from it without
asking.
"""

from tests.simulation.group_members.member_process import MemberProcess
from tests.simulation.groups.groups_simulation import NO_TENURE, GroupsSimulation

LOST = 0.3
LATE = 0.3
"""Shares of requests, and of requests and replies, in a network that is bad."""


class MemberSimulation(GroupsSimulation):
    """One seeded run with processes of `process_type`; in every second one the network is bad."""

    def __init__(self, seed, process_type=MemberProcess):
        self.is_bad = seed % 2 == 1
        self.tenants = {}
        super().__init__(seed)
        self.processes = [
            process_type(self, each.group, each.name, is_static=each.is_static)
            for each in self.processes
        ]

    def call(self, command, on_reply, *, tenures=None):
        if self.faulty and self.is_bad and self.random.random() < LOST:
            return
        super().call(command, on_reply, tenures=tenures)

    def _delay_ms(self):
        if self.faulty and self.is_bad and self.random.random() < LATE:
            return self.random.randint(100, 2_000)
        return super()._delay_ms()

    def adopted(self, process, key):
        """C1, as the members see it: whoever takes up a partition is the only one to own it."""
        members = self.committed.groups[process.group].members
        if process.member_id not in members:
            assert self._is_taken(process), "a member that is gone takes up a partition"
            return NO_TENURE
        for other in self.processes:
            if other is not process and other.group == process.group and not self._is_taken(other):
                assert not other.owns(key, self.now_ms), (
                    f"{process.name} takes {key} while {other.name} owns it"
                )
        self.counts["adopted"] += 1
        # The same assignment taken up once more, after silence, is the same tenure.
        held = self.committed.groups[process.group].currents[process.member_id].held(key)
        tenant = process.member_id, held
        if held is None or self.tenants.get((process.group, key)) != tenant:
            self.tenants[process.group, key] = tenant
            self.tenures[process.group, *key] += 1
        return self.tenures[process.group, *key]

    def _is_taken(self, process):
        """Whether another process has started under the same instance id.

        Or a join of its own under a former id was late enough to take its place.
        """
        members = self.committed.groups[process.group].members.values()
        return process.is_static and (
            any(process.member_id in member.former_member_ids for member in members)
            or any(other is not process and other.name == process.name for other in self.processes)
        )
