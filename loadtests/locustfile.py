"""The users of the load run, for locust.

    locust -f loadtests/locustfile.py --host http://127.0.0.1:7101

Each scenario has a module in `loadtests/scenarios`; names of classes behind the command choose some
of them. What is a failed request, and what is one that was sent again, `loadtests.settlement` says.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

from locust import events

from loadtests.scenarios import PARTITIONS
from loadtests.scenarios.batch_produce import BatchProduceUser
from loadtests.scenarios.event_streams import EventStreamUser
from loadtests.scenarios.group_polls import GroupPollUser
from loadtests.scenarios.mixed import MixedUser
from loadtests.scenarios.offset_reads import OffsetReadUser
from loadtests.scenarios.run_state import RUN, broker_urls
from loadtests.scenarios.sdk_group import SdkGroupUser
from loadtests.scenarios.sdk_produce import SdkProduceUser
from loadtests.scenarios.single_produce import SingleProduceUser
from ottla import Admin
from ottla_protocol.errors import TopicAlreadyExistsError

__all__ = [
    "BatchProduceUser",
    "EventStreamUser",
    "GroupPollUser",
    "MixedUser",
    "OffsetReadUser",
    "SdkGroupUser",
    "SdkProduceUser",
    "SingleProduceUser",
]


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]  # locust's own
def _add_arguments(parser: Any) -> None:
    hidden = {"include_in_web_ui": False}
    parser.add_argument("--topic", default="flights-load", help="topic to write and read")
    parser.add_argument("--brokers", default="", help="URLs over which users spread; else --host")
    parser.add_argument(
        "--acknowledged", default="", help="file for what was acknowledged", **hidden
    )
    parser.add_argument("--run-file", default="", help="file for what was seen", **hidden)
    parser.add_argument("--started-file", default="", help="made when the run begins", **hidden)


@events.test_start.add_listener  # type: ignore[untyped-decorator]  # locust's own
def _begin(environment: Any, **_: Any) -> None:
    options = environment.parsed_options
    # An earlier run's topic is written on.
    with Admin(broker_urls(environment)) as admin, suppress(TopicAlreadyExistsError):
        admin.create_topic(options.topic, partitions=PARTITIONS)
    RUN.begin(Path(options.acknowledged) if options.acknowledged else None)
    RUN.count_users(environment)
    if options.started_file:
        Path(options.started_file).touch()


@events.quitting.add_listener  # type: ignore[untyped-decorator]  # locust's own
def _end(environment: Any, **_: Any) -> None:
    environment.runner.quit()  # Nobody writes any more once the file has its last line.
    run_file = environment.parsed_options.run_file
    RUN.end(Path(run_file) if run_file else None)
