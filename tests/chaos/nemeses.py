"""All faults by their names, as runs and their schedules have them.

What a fault is: `nemesis.py`. Everything here stays within what a cluster has to bear, or else only
takes time: what was acknowledged must survive in any case.
"""

from tests.chaos.clock_faults import ClockDrift, ClockJump, ClockMonthAhead
from tests.chaos.disk_faults import (
    BitFlips,
    FailingDisk,
    FullDisk,
    HungDisk,
    LostDataDirectory,
    PowerLoss,
    PowerLossAmongTheLagging,
    PowerLossOfAll,
)
from tests.chaos.network_faults import (
    Bridge,
    ClientsCutOff,
    CutConnections,
    CutSlowConnections,
    LeaderWithoutFollowers,
    OneWayIn,
    OneWayOut,
    PacketLoss,
    PartitionController,
    PartitionMinority,
    SlowLink,
)
from tests.chaos.process_faults import (
    FewDescriptors,
    KillAll,
    KillClient,
    KillController,
    KillCoordinator,
    KillFollower,
    KillLeader,
    PauseAll,
    PauseController,
    PauseInShortBursts,
    PauseLeader,
    PauseMinority,
    RollingRestart,
)

NEMESES = {
    "kill leader": KillLeader,
    "kill follower": KillFollower,
    "kill controller": KillController,
    "kill coordinator": KillCoordinator,
    "kill client": KillClient,
    "kill all": KillAll,
    "pause leader": PauseLeader,
    "pause controller": PauseController,
    "pause minority": PauseMinority,
    "pause all": PauseAll,
    "stutter": PauseInShortBursts,
    "rolling restart": RollingRestart,
    "partition minority": PartitionMinority,
    "partition controller": PartitionController,
    "one way out": OneWayOut,
    "one way in": OneWayIn,
    "bridge": Bridge,
    "leader without followers": LeaderWithoutFollowers,
    "clients cut off": ClientsCutOff,
    "packet loss": PacketLoss,
    "slow link": SlowLink,
    "cut connections": CutConnections,
    "cut bodies": CutSlowConnections,
    "clock jump": ClockJump,
    "clock drift": ClockDrift,
    "clock a month ahead": ClockMonthAhead,
    "few descriptors": FewDescriptors,
    "full disk": FullDisk,
    "failing disk": FailingDisk,
    "hung disk": HungDisk,
    "power loss": PowerLoss,
    "power loss of all": PowerLossOfAll,
    "bit flips": BitFlips,
    "power loss among the lagging": PowerLossAmongTheLagging,
    "lost data directory": LostDataDirectory,
}
