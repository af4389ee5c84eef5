"""What clients write down of a failure that tells an offset: the checker has to hear of it."""

from types import SimpleNamespace

import pytest

from ottla_protocol.errors import NotEnoughReplicasError, Outcome
from tests.chaos import client_process
from tests.chaos.checker import CHECKS
from tests.chaos.evidence import Evidence
from tests.chaos.history import FAIL, INFO, POLL, SEND, HistoryWriter, read_history


@pytest.fixture
def history(tmp_path):
    writer = HistoryWriter(tmp_path / "a.jsonl", "a")
    yield writer
    writer.close()


def written(tmp_path):
    """The one operation, and whether L12 refuses it."""
    (operation,) = read_history([tmp_path / "a.jsonl"])
    return operation, bool(list(CHECKS["L12"](Evidence([operation]))))


class Broker:
    """Answers every request alike; counts them."""

    def __init__(self, status, **document):
        self.requests = 0
        self._answer = SimpleNamespace(status=status, document=document, body=b"", headers={})

    def post(self, *_, **__):
        self.requests += 1
        return self._answer

    get = post


CLIENT = SimpleNamespace(urls=["http://a"], path=lambda template, _partition: template)
NUMBERS = SimpleNamespace(choice=lambda choices: choices[0])
UNAVAILABLE = {"code": "NOT_ENOUGH_REPLICAS", "retriable": True, "outcome": "not_applied"}


def send_by_http(history, broker, monkeypatch):
    monkeypatch.setattr(client_process, "GIVE_UP_AFTER_S", 0.1)
    number = history.invoke(SEND, partition=0, value="x")
    client_process._send_until_known(CLIENT, NUMBERS, broker, history, number, 0, "x")


def test_a_refused_request_tells_its_code_and_no_offset(history, tmp_path, monkeypatch):
    send_by_http(history, Broker(503, **UNAVAILABLE), monkeypatch)
    operation, is_refused = written(tmp_path)
    assert (operation.outcome, operation.offset, is_refused) == (FAIL, None, False)
    assert set(operation.codes) == {"NOT_ENOUGH_REPLICAS"}


@pytest.mark.parametrize(
    "members",
    [
        {"base_offset": 0},
        {"offset": 7},
        {"records": [{"partition": 0, "offset": 0}]},
        {"results": [{"partition": 0, "base_offset": 0, "count": 1}]},
    ],
)
def test_a_refused_request_that_tells_an_offset_is_found(history, tmp_path, monkeypatch, members):
    broker = Broker(503, **UNAVAILABLE, **members)
    send_by_http(history, broker, monkeypatch)
    operation, is_refused = written(tmp_path)
    assert (operation.outcome, is_refused) == (FAIL, True)
    # A retry that succeeds would hide it.
    assert broker.requests == 1


def test_a_failed_read_that_tells_records_is_found(history, tmp_path):
    number = history.invoke(POLL, partition=0)
    broker = Broker(503, **UNAVAILABLE, records=[{"offset": 3, "value": "x"}])
    assert client_process._answer(history, number, broker, "http://a") is None
    assert written(tmp_path)[1]


def test_bounds_and_the_place_of_damage_are_no_success():
    bounds = {"code": "OFFSET_OUT_OF_RANGE", "log_start_offset": 0, "log_end_offset": 9}
    assert client_process.offset_in(bounds) is None
    assert client_process.offset_in({"code": "KAFKA_STORAGE_ERROR", "offset": 9}) is None
    assert client_process.offset_in({"code": "KAFKA_STORAGE_ERROR", "base_offset": 9}) == 9


@pytest.mark.parametrize(
    ("error", "metadata", "outcome", "is_refused"),
    [
        (NotEnoughReplicasError("no", outcome=Outcome.NOT_APPLIED), None, FAIL, False),
        (NotEnoughReplicasError("no", outcome=Outcome.UNKNOWN), None, INFO, False),
        (NotEnoughReplicasError("no"), SimpleNamespace(offset=0), INFO, True),
        (NotEnoughReplicasError("no", base_offset=0), None, INFO, True),
    ],
)
def test_a_failed_delivery_that_tells_an_offset_is_found(
    history, tmp_path, error, metadata, outcome, is_refused
):
    number = history.invoke(SEND, partition=0, value="x", is_ordered=True)
    client_process._note_delivery(history, number, error, metadata)
    operation, found = written(tmp_path)
    assert (operation.outcome, found) == (outcome, is_refused)
    assert operation.codes == ("NOT_ENOUGH_REPLICAS",)
    assert operation.is_ordered
