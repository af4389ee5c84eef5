"""What is taken without pydantic is what pydantic would have made of it."""

import pytest
import typer.main
from typer._coercion import build_runtime_param

from ottla_ops.cli.app import app
from ottla_ops.cli.plain_values import DOUBTFUL, plain_value

TEXTS = ["", "0", "1", "-1", "007", "+3", " 3", "1.5", "1e3", "9" * 30, "all", "latest", "json"]
TEXTS += ["true", "naïve", "٣", "/", "/nowhere", "table", "value", "offset"]
VALUES = [*TEXTS, True, False, 3, 2.5, 0]


def parameters():
    below = [typer.main.get_command(app)]
    while below:
        command = below.pop()
        below.extend(getattr(command, "commands", {}).values())
        yield from command.params


def test_what_is_taken_at_once_is_what_typer_makes_of_it():
    taken = 0
    kinds = {}
    for parameter in parameters():
        descriptor = parameter.type_descriptor
        info = descriptor.parameter_info
        kinds.setdefault(
            (str(descriptor.annotation), info.min, info.max, info.exists), (parameter, descriptor)
        )
    for parameter, descriptor in kinds.values():
        checked = build_runtime_param(descriptor)
        for value in VALUES:
            for given in (value, [value, value]):
                found = plain_value(given, descriptor.annotation, descriptor.parameter_info)
                if found is DOUBTFUL:
                    continue
                taken += 1
                by_typer = checked._coerce_value(given, param=parameter, ctx=None)
                assert (found, type(found)) == (by_typer, type(by_typer)), (parameter.name, given)
    # Doubting everything would be right, and of no use.
    assert taken > 5 * len(kinds)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["consume", "t", "-n", "0"], "must be at least 1"),
        (["consume", "t", "-n", "x"], "not a whole number"),
        (["query", "select 1", "--format", "xml"], "is not one of"),
    ],
)
def test_what_is_wrong_is_still_told(cli, arguments, told):
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert told in err
