"""Fixtures of the storage tests."""

import pytest

from tests.unit.storage.log_harness import LogHarness


@pytest.fixture
async def harness(tmp_path):
    """Opens logs under tmp_path, and closes them whatever the test does."""
    opened = LogHarness(tmp_path)
    yield opened
    await opened.close()
