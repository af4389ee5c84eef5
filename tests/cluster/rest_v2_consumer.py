"""A consumer of the REST Proxy API v2 as a test writes it: each call goes to another broker."""

from itertools import cycle

V2 = "application/vnd.kafka.v2+json"
JSON = "application/vnd.kafka.json.v2+json"


class RestConsumer:
    """One instance; `via` are the brokers that it asks in turn."""

    def __init__(self, client, group, name, *, via=None, **settings):
        self.client = client
        self.group = group
        self.name = name
        self.via = cycle(via or client.node_ids)
        self.created = self._create(settings)

    def _create(self, settings):
        settings = {"format": "json", "auto.offset.reset": "earliest"} | settings
        return self.call("POST", f"/consumers/{self.group}", {"name": self.name, **settings})

    def call(self, method, path, document=None, *, accept=None, **query):
        headers = {} if document is None else {"Content-Type": V2}
        if accept is not None:
            headers["Accept"] = accept
        url = self.client.url(next(self.via)) + path
        return self.client.http.call(method, url, document, headers=headers, **query)

    def of(self, method, path, document=None, **arguments):
        """A call on this instance."""
        path = f"/consumers/{self.group}/instances/{self.name}{path}"
        return self.call(method, path, document, **arguments)

    def subscribe(self, *topics):
        self.of("POST", "/subscription", {"topics": list(topics)}).expect(204)
        return self

    def read(self, **query):
        """Records of one request."""
        query = {"timeout": 10_000} | query
        answer = self.of("GET", "/records", accept=JSON, **query).expect(200)
        return answer.document

    def read_values(self, count, **query):
        """The values of records until there are that many, or a request brings none."""
        values = []
        while len(values) < count:
            records = self.read(**query)
            if not records:
                break
            values += [record["value"] for record in records]
        return values

    def commit(self, *offsets):
        document = None if not offsets else {"offsets": list(offsets)}
        return self.of("POST", "/offsets", document).expect(200)

    def committed(self, topic, partition=0):
        wanted = {"partitions": [{"topic": topic, "partition": partition}]}
        found = self.of("GET", "/offsets", wanted).expect(200).document["offsets"]
        return found[0]["offset"] if found else None
