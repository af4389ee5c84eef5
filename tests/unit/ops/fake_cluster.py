"""Brokers in one thread each that answer the documented calls from memory.

They keep what they are told to: records per partition, answers by Idempotency-Key. What a test
wants to go wrong is scripted: `refuse` answers with a problem, `lose_answers` carries a request out
and then drops the connection.
"""

import base64
import json
import threading
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Call:
    """One request as it arrived."""

    broker: int
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: object


@dataclass
class State:
    """What all brokers of the cluster share."""

    topics: dict[str, list[list[dict]]] = field(default_factory=dict)
    configs: dict[str, dict] = field(default_factory=dict)
    starts: dict[tuple[str, int], int] = field(default_factory=dict)
    answered: dict[str, dict] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    refusals: list[dict] = field(default_factory=list)
    scripted: dict[tuple[str, str], tuple[int, dict]] = field(default_factory=dict)
    answers_to_lose: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)


class ProblemError(Exception):
    """An error answer."""

    def __init__(self, status, code, detail="", **members):
        super().__init__(code)
        self.document = {
            "type": f"urn:ottla:error:{code}",
            "title": code,
            "status": status,
            "detail": detail or code.lower().replace("_", " "),
            "code": code,
            "retriable": False,
            **members,
        }


class FakeCluster:
    """Fake brokers 1 to N with common memory."""

    def __init__(self, brokers=1):
        self.state = State()
        self._servers = []
        for node_id in range(1, brokers + 1):
            server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self.state, node_id))
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            self._servers.append(server)
        self.urls = [f"http://127.0.0.1:{server.server_port}" for server in self._servers]

    @property
    def bootstrap(self):
        return ",".join(self.urls)

    def create(self, topic, partitions=1):
        self.state.topics[topic] = [[] for _ in range(partitions)]

    def append(self, topic, partition, *values):
        with self.state.changed:
            for value in values:
                _append(self.state.topics[topic][partition], {"value_text": value})
            self.state.changed.notify_all()

    def refuse(self, status, code, *, times=1, **members):
        self.state.refusals += [ProblemError(status, code, **members).document] * times

    def script(self, method, path, status, document):
        """What the brokers answer to that call from now on; a list is of pages by cursor."""
        self.state.scripted[method, path] = (status, document)

    def lose_answers(self, count):
        self.state.answers_to_lose = count

    def stop_broker(self, node_id):
        self._servers[node_id - 1].shutdown()
        self._servers[node_id - 1].server_close()

    def stop(self):
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def calls(self, method=None):
        return [call for call in self.state.calls if method in {None, call.method}]

    def values(self, topic, partition=0):
        return [_stored_bytes(record) for record in self.state.topics[topic][partition]]


def _append(log, record):
    log.append({**record, "offset": len(log), "timestamp": 1_700_000_000_000 + len(log)})


def _stored_bytes(record, name="value"):
    if record.get(f"{name}_b64") is not None:
        return base64.b64decode(record[f"{name}_b64"])
    text = record.get("value_text") if name == "value" else record.get("key")
    if text is not None:
        return text.encode()
    if name == "value" and record.get("value") is not None:
        return json.dumps(record["value"], separators=(",", ":")).encode()
    return None


def _rendered(record, value_format):
    rendered = {name: record[name] for name in ("offset", "timestamp")}
    rendered["headers"] = record.get("headers", {})
    for name in ("key", "value"):
        data = _stored_bytes(record, name)
        if data is None:
            rendered[name] = None
        elif value_format == "base64":
            rendered[f"{name}_b64"] = base64.b64encode(data).decode()
        elif name == "key":
            rendered["key"] = data.decode()
        else:
            try:
                rendered["value"] = json.loads(data)
            except ValueError:
                rendered["value_text"] = data.decode()
    return rendered


class _Api:
    """The documented calls."""

    def __init__(self, state, node_id):
        self.state = state
        self.node_id = node_id

    def answer(self, call):
        if self.state.refusals:
            problem = self.state.refusals.pop(0)
            return problem["status"], problem
        if (call.method, call.path) in self.state.scripted:
            status, document = self.state.scripted[call.method, call.path]
            if isinstance(document, list):
                return status, document[int(call.query.get("cursor", 0))]
            return status, document
        if call.method == "PATCH":
            return 200, self.alter(call)
        return self.route(call)

    def route(self, call):
        match call.method, [part for part in call.path.split("/") if part]:
            case "GET", ["readyz"]:
                return 200, {"ready": True, "reasons": []}
            case "GET", ["v1", "cluster"]:
                return 200, self.cluster()
            case "GET", ["v1", "topics"]:
                return 200, {"topics": [self.describe(name) for name in sorted(self.state.topics)]}
            case "POST", ["v1", "topics"]:
                return 201, self.create(call.body)
            case "GET", ["v1", "topics", topic]:
                return 200, self.describe(topic)
            case "DELETE", ["v1", "topics", topic]:
                self.log_of(topic)
                del self.state.topics[topic]
                return 204, {}
            case "POST", ["v1", "topics", topic, "partitions", partition, "trim"]:
                return 200, self.trim(topic, int(partition), call.body)
            case "POST", ["v1", "topics", topic, "records"]:
                return 200, self.produce(call, topic, None)
            case "POST", ["v1", "topics", topic, "partitions", partition, "records"]:
                return 200, self.produce(call, topic, int(partition))
            case "GET", ["v1", "topics", topic, "partitions", partition, "records"]:
                return 200, self.read(call.query, topic, int(partition))
            case "GET", ["v1", "topics", topic, "partitions", partition, "offsets"]:
                log = self.log_of(topic, int(partition))
                at = call.query["at"]
                late = [each["offset"] for each in log if at != "latest"
                        and each["timestamp"] >= int(at)]  # fmt: skip
                return 200, {
                    "topic": topic,
                    "partition": int(partition),
                    "offset": min(late, default=len(log)),
                    "leader_epoch": 0,
                }
        raise ProblemError(404, "RESOURCE_NOT_FOUND")

    def trim(self, topic, partition, body):
        end = len(self.log_of(topic, partition))
        former = self.state.starts.get((topic, partition), 0)
        offset = body.get("before_offset", end)
        if "before_timestamp" in body:
            late = [
                each["offset"]
                for each in self.log_of(topic, partition)
                if each["timestamp"] >= body["before_timestamp"]
            ]
            offset = min(late, default=end)
        if offset > end:
            raise ProblemError(416, "OFFSET_OUT_OF_RANGE", f"the log ends at {end}")
        start = max(former, offset)
        if not body["dry_run"]:
            self.state.starts[topic, partition] = start
        return {
            "topic": topic,
            "partition": partition,
            "former_log_start_offset": former,
            "log_start_offset": start,
            "records": start - former,
            "segments": 1,
            "size_bytes": 16_384,
            "dry_run": body["dry_run"],
        }

    def log_of(self, topic, partition=0):
        logs = self.state.topics.get(topic)
        if logs is None or partition >= len(logs):
            raise ProblemError(404, "UNKNOWN_TOPIC_OR_PARTITION", f"there is no topic {topic}")
        return logs[partition]

    def cluster(self):
        broker = {"id": self.node_id, "url": "http://a", "rack": "", "state": "active"}
        return {
            "cluster_id": "fake",
            "controller": 1,
            "controller_term": 7,
            "metadata_version": 9,
            "feature_level": 1,
            "brokers": [{**broker, "broker_epoch": 3}],
            "topics": len(self.state.topics),
            "partitions": 0,
        }

    def describe(self, name):
        self.log_of(name)
        placement = {"leader": 1, "leader_epoch": 0, "replicas": [1], "isr": [1]}
        return {
            "name": name,
            "topic_id": "00",
            "partitions": [
                {"partition": number, **placement} for number in range(len(self.state.topics[name]))
            ],
            "configs": self.state.configs.get(name, {}),
            "warnings": ["a name with dots"] if "." in name else [],
        }

    def create(self, body):
        unknown = set(body) - {
            "name",
            "partitions",
            "replication_factor",
            "configs",
            "validate_only",
        }
        if unknown:
            raise ProblemError(422, "INVALID_REQUEST", f"unknown fields {unknown}")
        if body["name"] in self.state.topics:
            raise ProblemError(409, "TOPIC_ALREADY_EXISTS")
        self.state.topics[body["name"]] = [[] for _ in range(body.get("partitions", 3))]
        self.state.configs[body["name"]] = body.get("configs", {})
        description = self.describe(body["name"])
        if body.get("validate_only"):
            del self.state.topics[body["name"]]
        return description

    def alter(self, call):
        topic = call.path.split("/")[3]
        self.log_of(topic)
        if call.path.endswith("/configs"):
            return self.alter_configs(topic, call.body)
        return self.add_partitions(topic, call.body)

    def add_partitions(self, topic, body):
        logs = self.state.topics[topic]
        if body["partitions"] <= len(logs):
            raise ProblemError(422, "INVALID_PARTITIONS", "they can only become more")
        logs += [[] for _ in range(body["partitions"] - len(logs))]
        return self.describe(topic)

    def alter_configs(self, topic, body):
        configs = self.state.configs.setdefault(topic, {})
        for name, value in body["configs"].items():
            configs.pop(name, None)
            if value is not None:
                configs[name] = value
        own = {name: {"value": value, "source": "topic"} for name, value in configs.items()}
        reset = {name: {"value": 0, "source": "default"} for name in body["configs"]}
        return {"topic": topic, "configs": {**reset, **own}}

    def produce(self, call, topic, fixed_partition):
        idempotency_key = call.headers.get("idempotency-key")
        with self.state.changed:
            if idempotency_key in self.state.answered:
                first = self.state.answered[idempotency_key]
                results = [{**result, "duplicate": True} for result in first["results"]]
                return {**first, "results": results}
            self.log_of(topic, fixed_partition or 0)
            logs = self.state.topics[topic]
            positions = []
            for record in call.body["records"]:
                key = _stored_bytes(record, "key") or b""
                partition = zlib.crc32(key) % len(logs)
                partition = partition if fixed_partition is None else fixed_partition
                positions.append({"partition": partition, "offset": len(logs[partition])})
                _append(logs[partition], record)
            results = [
                {
                    "partition": partition,
                    "base_offset": min(
                        each["offset"] for each in positions if each["partition"] == partition
                    ),
                    "count": sum(each["partition"] == partition for each in positions),
                    "timestamp": 1_700_000_000_000,
                    "duplicate": False,
                }
                for partition in sorted({each["partition"] for each in positions})
            ]
            answer = {"topic": topic, "results": results, "records": positions}
            if idempotency_key:
                self.state.answered[idempotency_key] = answer
            self.state.changed.notify_all()
            return answer

    def read(self, query, topic, partition):
        log = self.log_of(topic, partition)
        requested = query["offset"]
        if requested == "earliest":
            offset = 0
        elif requested == "latest":
            offset = len(log)
        elif requested.startswith("-"):
            offset = max(0, len(log) + int(requested))
        else:
            offset = int(requested)
        if offset > len(log):
            raise ProblemError(416, "OFFSET_OUT_OF_RANGE", f"the log ends at {len(log)}")
        deadline = time.monotonic() + int(query["max_wait_ms"]) / 1000
        with self.state.changed:
            while len(log) <= offset and (left := deadline - time.monotonic()) > 0:
                self.state.changed.wait(left)
        records = log[offset : offset + int(query["max_records"])]
        # Of expressions it understands equality with the whole value: $ == JSON.
        wanted = [
            record
            for record in records
            if "where" not in query
            or _stored_bytes(record) == query["where"].removeprefix("$ == ").encode()
        ]
        return {
            "topic": topic,
            "partition": partition,
            "records": [_rendered(record, query["format"]) for record in wanted],
            "next_offset": offset + len(records),
            "high_watermark": len(log),
            "log_start_offset": 0,
        }


def _handler(state, node_id):
    api = _Api(state, node_id)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle(self):
            # Clients reset the connections that they close.
            with suppress(ConnectionResetError):
                super().handle()

        def do_GET(self):
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            call = Call(
                node_id,
                self.command,
                unquote(parts.path),
                {name: values[0] for name, values in parse_qs(parts.query).items()},
                {name.lower(): value for name, value in self.headers.items()},
                json.loads(body) if body else None,
            )
            with state.changed:
                state.calls.append(call)
                state.changed.notify_all()
            try:
                status, document = api.answer(call)
            except ProblemError as problem:
                status, document = problem.document["status"], problem.document
            if self.command in {"POST", "PATCH"} and state.answers_to_lose > 0:
                state.answers_to_lose -= 1
                self.close_connection = True
                return
            self.reply(status, document)

        def do_POST(self):
            self.do_GET()

        def do_PATCH(self):
            self.do_GET()

        def do_DELETE(self):
            self.do_GET()

        def reply(self, status, document):
            data = b"" if status == 204 else json.dumps(document).encode()
            kind = "application/json" if status < 400 else "application/problem+json"
            try:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except ConnectionError:
                self.close_connection = True

        def log_message(self, *_):
            pass

    return Handler
