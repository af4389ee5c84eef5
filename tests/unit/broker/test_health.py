"""The probe of a start looks at this process alone, and never goes back."""

from types import SimpleNamespace

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from ottla_broker.http import health


@pytest.mark.parametrize(("started", "status"), [(False, 503), (True, 200)])
async def test_a_start_is_told_by_status_and_body(started, status, monkeypatch):
    context = SimpleNamespace(has_started=lambda: started)
    monkeypatch.setattr(health, "context_of", lambda _: context)
    answer = await health.startup(make_mocked_request("GET", "/startupz"))
    assert isinstance(answer, web.Response)
    assert answer.status == status
    assert msgspec.json.decode(answer.body) == {"started": started}
