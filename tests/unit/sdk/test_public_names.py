"""The public names: there, guarded, lazily imported, and called what users call them."""

import subprocess
import sys

import pytest

import ottla
import ottla.aio


@pytest.mark.parametrize("module", [ottla, ottla.aio])
def test_every_public_name_is_there_and_says_where_it_is_from(module):
    assert module.__all__ == sorted(module.__all__)
    for name in module.__all__:
        value = getattr(module, name)
        # Never a module of the SDK that is private.
        assert not value.__module__.startswith("ottla._"), name
        assert name in dir(module)


def test_the_twins_are_two_classes():
    assert ottla.Producer is not ottla.aio.Producer
    assert ottla.Producer.__module__ == "ottla"
    assert ottla.aio.Producer.__module__ == "ottla.aio"
    assert ottla.RecordMetadata is ottla.aio.RecordMetadata


def test_a_name_that_is_none_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Consumr"):
        _ = ottla.Consumr


def test_importing_the_package_imports_nothing_heavy():
    program = (
        "import sys, ottla, ottla.aio\n"
        "heavy = {'aiohttp', 'urllib3', 'aiokafka', 'asyncio', 'msgspec'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "ottla.Producer\n"
        "heavy = {'aiohttp', 'urllib3', 'aiokafka'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
