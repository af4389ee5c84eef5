"""What `ottla`, `ottla.aio` and `ottla.testing` export, and what importing them costs."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import ottla

MODULES = ("ottla", "ottla.aio", "ottla.testing")
SOURCE = Path(ottla.__file__).parent

HEAVY = ("aiohttp", "urllib3", "aiokafka", "yarl", "cramjam", "opentelemetry", "asyncio", "ssl")
MODULES_MAX = 40
"""Most modules that `import ottla` may load; typing and what it needs are 25 of them."""


@pytest.fixture(params=MODULES)
def module(request):
    return importlib.import_module(request.param)


def test_all_is_sorted_and_whole(module):
    assert sorted(module.__all__) == module.__all__
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_nothing_public_is_left_out(module):
    source = ast.parse(Path(module.__file__).read_text())
    imported = {
        alias.asname or alias.name
        for node in ast.walk(source)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ottla")
        for alias in node.names
    }
    if module.__name__ == "ottla.testing":
        assert set(module.__all__) == {"FakeCluster", "FakeRecord"}
    else:
        assert imported == set(module.__all__)


def test_every_module_beside_these_is_private():
    public = {path.stem for path in SOURCE.glob("*.py") if not path.stem.startswith("_")}
    assert public == {"aio", "testing"}


def test_what_is_exported_says_so_in_tracebacks(module):
    for name in module.__all__:
        home = getattr(module, name).__module__
        assert not home.startswith("ottla._"), f"{name} says {home}"


def test_both_flavours_differ_only_in_their_futures():
    aio = importlib.import_module("ottla.aio")
    assert set(ottla.__all__) - set(aio.__all__) == {"ManyFuture", "RecordFuture"}
    assert set(aio.__all__) - set(ottla.__all__) == {"AsyncManyFuture", "AsyncRecordFuture"}
    for name in set(ottla.__all__) & set(aio.__all__) - {"Admin", "Consumer", "Producer"}:
        assert getattr(ottla, name) is getattr(aio, name), name
    for name in ("Admin", "Consumer", "Producer"):
        assert (getattr(ottla, name).__module__, getattr(aio, name).__module__) == (
            "ottla",
            "ottla.aio",
        )


def test_a_name_that_is_none_is_an_attribute_error(module):
    with pytest.raises(AttributeError, match="Producr"):
        module.Producr  # noqa: B018


def test_every_error_that_a_user_may_catch_has_a_docstring():
    for name in ottla.__all__:
        assert inspect.getdoc(getattr(ottla, name)), name


def loaded_by(statement):
    """The modules that a statement loads in a fresh interpreter, beyond those of its start."""
    program = (
        "import sys; before = set(sys.modules); "
        f"{statement}; print('\\n'.join(sorted(set(sys.modules) - before)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    return set(ran.stdout.split())


@pytest.mark.parametrize("name", ["ottla", "ottla.aio"])
def test_importing_is_cheap(name):
    loaded = loaded_by(f"import {name}")
    assert loaded.isdisjoint(HEAVY)
    assert len(loaded) <= MODULES_MAX, sorted(loaded)


def test_catching_an_error_loads_no_network():
    loaded = loaded_by("from ottla import OttlaError, ConfigError, OffsetResponse")
    assert loaded.isdisjoint(HEAVY)


def test_the_admin_client_of_threads_needs_no_aiohttp_and_no_codec():
    loaded = loaded_by("import ottla; ottla.Admin('127.0.0.1:7101').close()")
    assert "urllib3" in loaded
    assert loaded.isdisjoint({"aiohttp", "opentelemetry"})


def test_using_a_producer_never_loads_the_rest_of_aiokafka_or_opentelemetry():
    loaded = loaded_by("import ottla; ottla.Producer('127.0.0.1:7101').close()")
    assert loaded.isdisjoint({"opentelemetry", "aiokafka.producer", "aiokafka.client", "urllib3"})


def test_using_a_consumer_never_loads_the_rest_of_aiokafka_or_opentelemetry():
    loaded = loaded_by("import ottla; ottla.Consumer(bootstrap_servers='127.0.0.1:7101').close()")
    assert loaded.isdisjoint({"opentelemetry", "aiokafka.producer", "aiokafka.client", "urllib3"})
