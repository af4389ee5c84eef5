"""What every way to run a broker has to know of its process, and of how it stops.

A broker that gets SIGTERM stops being ready, hands its leaderships over, answers what waits,
commits and exits with 0 within `BROKER_STOPS_WITHIN_S`. What kills it after that waits for longer,
so that a loaded host or a slow disk is no kill -9; which would lose nothing, but costs a failover.
"""

from typing import Final

BROKER_STOPS_WITHIN_S: Final = 4
KILLED_AFTER_S: Final = 30

BROKER_MODULE: Final = "ottla_broker"
PORT: Final = 7101
DESCRIPTORS: Final = 65536
"""What a broker may open: connections of clients, segments and peers."""
