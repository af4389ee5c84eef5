"""Every command has `--json`, or a reason why it has none."""

import importlib
import inspect
import types

import typer.main

from ottla_ops.cli.app import app

OURS = "ottla_ops."

WITHOUT = {
    "dev supervise": "it becomes the broker's parent; the broker's log is the output",
    "dev banner": "it is what a person sees of `make start`",
}


def commands(command, path=""):
    below = getattr(command, "commands", None)
    if below is None:
        yield path, command
        return
    for name, each in below.items():
        yield from commands(each, f"{path} {name}".strip())


def named_in(code, scope):
    """Functions of ours that code names: of its module, imported within it, or methods."""
    # `from ottla_ops.x import y` within a function names both.
    modules = [importlib.import_module(name) for name in code.co_names if name.startswith(OURS)]
    for name in code.co_names:
        for named in (scope.get(name), *(getattr(module, name, None) for module in modules)):
            if getattr(named, "__module__", "").startswith(OURS):
                yield from filter(
                    inspect.isfunction, vars(named).values() if inspect.isclass(named) else [named]
                )


def speaks_json(function, seen):
    """Whether it, or a function of ours that it names, looks at `as_json`."""
    function = inspect.unwrap(function)
    if function in seen:
        return False
    seen.add(function)
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        if "as_json" in code.co_names:
            return True
        codes += [each for each in code.co_consts if isinstance(each, types.CodeType)]
        if any(speaks_json(each, seen) for each in named_in(code, function.__globals__)):
            return True
    return False


def test_every_command_speaks_json_or_says_why_not():
    found = dict(commands(typer.main.get_command(app)))
    assert len(found) > 40
    silent = {path for path, command in found.items() if not speaks_json(command.callback, set())}
    assert silent == set(WITHOUT)
