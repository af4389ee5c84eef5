"""A producer of plain HTTP with a transactional id: what docs/transactions.md tells to do."""

from urllib.parse import quote

from ottla_protocol import routes

READ_WAIT_MS = 20_000


class TransactionalClient:
    """Holds one transactional id, and the token of its present transaction.

    Each call goes to the next broker.

    Args:
        client: of the cluster.
        transactional_id: whose.
        timeout_ms: how long a transaction may be open; the brokers' default where it is None.
    """

    def __init__(self, client, transactional_id, timeout_ms=None):
        self.client = client
        self.transactional_id = transactional_id
        self._calls = 0
        wanted = {"transactional_id": transactional_id}
        if timeout_ms is not None:
            wanted["timeout_ms"] = timeout_ms
        self.granted = self._post(routes.TRANSACTIONS, wanted).expect(200).document
        self.token = self.granted["transaction"]

    def _url(self):
        nodes = self.client.live_node_ids
        self._calls += 1
        return self.client.url(nodes[self._calls % len(nodes)])

    def _post(self, path, document, **arguments):
        path = path.format(transactional_id=quote(self.transactional_id, safe=""))
        return self.client.http.post(self._url() + path, document, **arguments)

    def produce(self, topic, *values, partition=0, key=None, token=None, **arguments):
        """POST values to a partition within the transaction; the bare answer."""
        headers = {routes.HEADER_TRANSACTION: token or self.token}
        if key is not None:
            headers[routes.HEADER_IDEMPOTENCY_KEY] = key
        return self.client.http.post(
            self._url() + routes.PARTITION_RECORDS.format(topic=topic, partition=partition),
            {"records": [{"value": value} for value in values]},
            headers=headers,
            **arguments,
        )

    def offsets(self, group, topic, offset, token=None, **member):
        """Have the group's offset of partition 0 be committed with the transaction."""
        wanted = {"transaction": token or self.token, "group": group, **member}
        wanted["offsets"] = [{"topic": topic, "partition": 0, "offset": offset}]
        return self._post(routes.TRANSACTION_OFFSETS, wanted)

    def end(self, path, token=None):
        """Commit or abort; the bare answer, whose token is the one from now on."""
        answer = self._post(path, {"transaction": token or self.token})
        if answer.status == 200 and token is None:
            self.token = answer.document["transaction"]
        return answer

    def commit(self, token=None):
        return self.end(routes.TRANSACTION_COMMIT, token)

    def abort(self, token=None):
        return self.end(routes.TRANSACTION_ABORT, token)

    def committed_values(self, topic, count, partition=0):
        """What a reader of committed records is given first, once there are so many."""
        found, offset = [], 0
        while len(found) < count:
            read = self.client.read(
                topic,
                partition,
                offset=offset,
                isolation="read_committed",
                max_wait_ms=READ_WAIT_MS,
            )
            document = read.expect(200).document
            assert document["next_offset"] > offset, f"only {found} within {READ_WAIT_MS} ms"
            found += [record["value"] for record in document["records"]]
            offset = document["next_offset"]
        return found
