"""The scenarios of the load run: each module has the locust users of one.

Importing this package imports neither locust nor gevent, whose patches must not reach whoever
starts a run; `USER_CLASSES` names the classes that `loadtests/locustfile.py` has.
"""

from collections.abc import Mapping
from types import MappingProxyType

PARTITIONS = 6
"""Of the topic that they write."""

USER_CLASSES: Mapping[str, str] = MappingProxyType(
    {
        "single-produce": "SingleProduceUser",
        "batch-produce": "BatchProduceUser",
        "offset-reads": "OffsetReadUser",
        "group-polls": "GroupPollUser",
        "event-streams": "EventStreamUser",
        "sdk-produce": "SdkProduceUser",
        "sdk-group": "SdkGroupUser",
        "mixed": "MixedUser",
    }
)
"""By the name under which a run chooses it, the class of a scenario's users."""

WRITING = frozenset({"single-produce", "batch-produce", "sdk-produce", "mixed"})
"""The scenarios that write records; the others have nothing to read without one of them."""
