"""A consumer that is nothing but HTTP requests: what a curl script would be."""

from ottla_protocol import routes


class PollingClient:
    """Polls a group, and remembers what a client must: its member id and the last ack."""

    def __init__(self, client, group, topics, *, via=None, **settings):
        self.client = client
        self.group = group
        self.via = via
        self.request = {"topics": topics, "max_wait_ms": 0, **settings}
        self.member_id = None
        self.ack = None
        self.values = []

    def try_poll(self, *, via=None, **fields):
        """One poll; the bare answer, of which nothing is remembered."""
        via = via or self.via
        url = self.client.any_url() if via is None else self.client.url(via)
        request = self.request | {"member_id": self.member_id, "ack": self.ack} | fields
        request = {name: value for name, value in request.items() if value is not None}
        return self.client.http.post(url + routes.GROUP_POLL.format(group=self.group), request)

    def poll(self, **fields):
        """One poll, acknowledging the one before; its records' values."""
        document = self.try_poll(**fields).expect(200).document
        self.member_id = document["member_id"]
        self.ack = document["ack"]
        values = [record["value"] for record in document["records"]]
        self.values += values
        return values

    def leave(self):
        url = self.client.any_url() if self.via is None else self.client.url(self.via)
        path = routes.GROUP_MEMBER.format(group=self.group, member=self.member_id)
        self.client.http.delete(url + path).expect(204)
