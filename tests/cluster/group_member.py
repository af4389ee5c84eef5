"""A member of a consumer group as a plain HTTP client would be one."""

from ottla_protocol import routes


class GroupMember:
    """Joins, heartbeats, commits and leaves at whichever broker it is told.

    It reads nothing: what it may read is `partitions`, a set of (topic, partition), which it adopts
    at each answer and confirms with the next heartbeat.
    """

    def __init__(self, client, group, topics, *, via=None, **settings):
        self.client = client
        self.group = group
        self.via = via
        self.partitions = set()
        document = (
            self.call("POST", routes.GROUP_MEMBERS, {"topics": topics, **settings})
            .expect(201)
            .document
        )
        self.member_id = document["member_id"]
        self.session_timeout_ms = document["session_timeout_ms"]
        self._adopt(document)

    def _adopt(self, document):
        self.generation = document["generation"]
        if document["assignment"] is not None:
            self.partitions = {
                (each["topic"], partition)
                for each in document["assignment"]
                for partition in each["partitions"]
            }

    def call(self, method, route, document=None):
        url = self.client.any_url() if self.via is None else self.client.url(self.via)
        path = route.format(group=self.group, member=getattr(self, "member_id", None))
        return self.client.http.call(method, url + path, document)

    def try_heartbeat(self, *, max_wait_ms=0):
        """One heartbeat with what this member reads; the bare answer, adopted if it is a 200."""
        topics = sorted({topic for topic, _ in self.partitions})
        owned = [
            {"topic": topic, "partitions": sorted(n for t, n in self.partitions if t == topic)}
            for topic in topics
        ]
        answer = self.call(
            "POST",
            routes.GROUP_HEARTBEAT,
            {"generation": self.generation, "owned": owned, "max_wait_ms": max_wait_ms},
        )
        if answer.status == 200:
            self._adopt(answer.document)
        return answer

    def heartbeat(self):
        self.try_heartbeat().expect(200)

    def commit(self, topic, partition, offset, *, generation=None):
        """The bare answer to a commit of one offset."""
        return self.call(
            "POST",
            routes.GROUP_OFFSETS,
            {
                "member_id": self.member_id,
                "generation": self.generation if generation is None else generation,
                "offsets": [{"topic": topic, "partition": partition, "offset": offset}],
            },
        )

    def leave(self):
        self.call("DELETE", routes.GROUP_MEMBER).expect(204)
