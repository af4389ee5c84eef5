"""Members of a consumer group over `POST /v1/groups/{group}/poll` that come and go.

Some leave in order, others fall silent and are thrown out when their session ends; new ones come
under names of their own. Whatever the members are given, all together, must skip no offset.
"""

import msgspec
from locust import task

from loadtests.deliveries import follows
from loadtests.scenarios.http_user import OttlaHttpUser
from loadtests.scenarios.run_state import RUN
from ottla_protocol.routes import GROUP_MEMBER, GROUP_POLL, JSON

GROUP = "load-polls"
LIFE_POLLS = (10, 60)
SILENT_SHARE = 0.25
SESSION_TIMEOUT_MS = 6_000
MAX_RECORDS = 500
MAX_WAIT_MS = 300


class _Record(msgspec.Struct):
    partition: int
    offset: int


class _Poll(msgspec.Struct):
    records: list[_Record]
    ack: str | None


_poll_decoder = msgspec.json.Decoder(_Poll)


class GroupPollUser(OttlaHttpUser):
    """One member after the other."""

    weight = 2

    def on_start(self) -> None:
        """The first member comes."""
        self._lives = 0
        self._ack: str | None = None
        self._polls_left = 0
        self._come()

    def on_stop(self) -> None:
        """The last one leaves, as the others do."""
        self._leave()

    @task
    def poll(self) -> None:
        """Say that the last records are done, and get more."""
        answer = self.call(
            "group poll",
            "POST",
            GROUP_POLL.format(group=GROUP),
            body=msgspec.json.encode(
                {
                    "topics": [self.topic],
                    "member_id": self._member,
                    "ack": self._ack,
                    "max_records": MAX_RECORDS,
                    "max_wait_ms": MAX_WAIT_MS,
                    "session_timeout_ms": SESSION_TIMEOUT_MS,
                }
            ),
            headers={"Content-Type": JSON},
            # 409: its session ended, or the partition is another's. It polls again without an ack.
            settles=(200, 409),
            check=_in_order,
        )
        self._ack = None
        if answer is not None and answer.status == 409:
            RUN.recorder.repeated("group poll", "FENCED")
        elif answer is not None:
            page = _poll_decoder.decode(answer.body)
            self._ack = page.ack
            for partition, offsets in _by_partition(page).items():
                RUN.delivered(GROUP, partition, offsets)
        self._polls_left -= 1
        if self._polls_left <= 0:
            if self.random.random() >= SILENT_SHARE:
                self._leave()
            self._come()

    def _come(self) -> None:
        self._lives += 1
        self._member = f"member-{RUN.run_id}-{self.number}-{self._lives}"
        self._ack = None
        self._polls_left = self.random.randint(*LIFE_POLLS)

    def _leave(self) -> None:
        # 404 and 409: an attempt without an answer had done it, or the session has ended.
        path = GROUP_MEMBER.format(group=GROUP, member=self._member)
        self.call("group leave", "DELETE", path, settles=(204, 404, 409))


def _by_partition(page: _Poll) -> dict[int, list[int]]:
    by_partition: dict[int, list[int]] = {}
    for record in page.records:
        by_partition.setdefault(record.partition, []).append(record.offset)
    return by_partition


def _in_order(body: bytes) -> str | None:
    for partition, offsets in _by_partition(_poll_decoder.decode(body)).items():
        if not follows(offsets):
            return f"offsets of partition {partition} do not follow one another"
    return None
