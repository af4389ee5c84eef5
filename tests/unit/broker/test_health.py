"""The probe of a start looks at this process alone, and never goes back; gauges are of now."""

from types import SimpleNamespace

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from ottla_broker.http import health
from ottla_broker.telemetry import METRICS


@pytest.mark.parametrize(("started", "status"), [(False, 503), (True, 200)])
async def test_a_start_is_told_by_status_and_body(started, status, monkeypatch):
    context = SimpleNamespace(has_started=lambda: started)
    monkeypatch.setattr(health, "context_of", lambda _: context)
    answer = await health.startup(make_mocked_request("GET", "/startupz"))
    assert isinstance(answer, web.Response)
    assert answer.status == status
    assert msgspec.json.decode(answer.body) == {"started": started}


async def test_gauges_are_measured_before_they_are_told(monkeypatch):
    """Else a cluster that was just found healthy is told to have partitions that are not."""
    METRICS.under_replicated.set(4)
    context = SimpleNamespace(measure_gauges=lambda: METRICS.under_replicated.set(0))
    monkeypatch.setattr(health, "context_of", lambda _: context)
    answer = await health.metrics(make_mocked_request("GET", "/metrics"))
    assert isinstance(answer, web.Response)
    assert b"\nottla_under_replicated_partitions 0.0\n" in answer.body
