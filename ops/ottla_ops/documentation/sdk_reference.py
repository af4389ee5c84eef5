"""The reference of the Python SDK, made from its signatures and docstrings without importing it."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import griffe

from ottla_ops.documentation.markdown import code, paragraph, table

MODULES: Final = ("ottla", "ottla.aio", "ottla.testing")

HEADER: Final = """\
# Python SDK

Everything that `ottla`, `ottla.aio` and `ottla.testing` export. What one of them only passes on is
described at the first.

"""


def sdk_reference() -> str:
    """The reference, as Markdown."""
    found = importlib.util.find_spec("ottla")
    assert found is not None, "the SDK is installed with the tools"
    assert found.origin is not None, "the SDK is a package with an __init__"
    loader = griffe.GriffeLoader(
        search_paths=[str(Path(found.origin).parents[1])], docstring_parser=griffe.Parser.google
    )
    for package in ("ottla_protocol", "ottla"):
        loader.load(package)
    loader.resolve_aliases(external=False)
    told: set[str] = set()
    parts = [HEADER]
    for name in MODULES:
        module = loader.modules_collection[name]
        parts.append(f"## {name}\n\n{paragraph(_text(module))}\n\n")
        parts += [_export(name, each, told) for each in public(module)]
    return "".join(parts)


def public(module: griffe.Object) -> list[griffe.Object | griffe.Alias]:
    """What a module exports, in the order of its `__all__`."""
    exports = module.exports or []
    return [module.members[str(name)] for name in exports if str(name) in module.members]


def _export(module: str, member: griffe.Object | griffe.Alias, told: set[str]) -> str:
    target = member.final_target if isinstance(member, griffe.Alias) else member
    if target.path in told:
        return ""
    told.add(target.path)
    return "".join([f"### {module}.{member.name}\n\n", *_described(target)])


def _described(target: griffe.Object) -> Iterator[str]:
    if isinstance(target, griffe.Class):
        bases = ", ".join(code(str(base).rpartition(".")[2]) for base in target.bases)
        yield f"Class{' of ' + bases if bases else ''}. " if bases else ""
        yield from _docstring(target)
        for method in target.members.values():
            if isinstance(method, griffe.Function) and _is_told(method):
                yield f"#### {target.name}.{_signature(method)}\n\n"
                yield from _docstring(method)
    elif isinstance(target, griffe.Function):
        yield f"`{_signature(target)}`\n\n"
        yield from _docstring(target)
    else:
        yield from _docstring(target)


def _is_told(method: griffe.Function) -> bool:
    return not method.name.startswith("_") and method.docstring is not None


def _signature(function: griffe.Function) -> str:
    given = [each for each in function.parameters if each.name not in ("self", "cls")]
    names, is_keyword = [], False
    for each in given:
        if each.kind is griffe.ParameterKind.keyword_only and not is_keyword:
            is_keyword = True
            names.append("*")
        stars = {"variadic positional": "*", "variadic keyword": "**"}.get(
            each.kind.value if each.kind else "", ""
        )
        is_keyword = is_keyword or stars == "*"
        default = f"={each.default}" if each.default is not None and not stars else ""
        names.append(f"{stars}{each.name}{default}")
    return f"{function.name}({', '.join(names)})"


def _text(target: griffe.Object) -> str:
    return target.docstring.value.split("\n\n")[0] if target.docstring else ""


def _docstring(target: griffe.Object) -> Iterator[str]:
    for section in target.docstring.parsed if target.docstring else ():
        if isinstance(section, griffe.DocstringSectionText):
            yield section.value
        elif isinstance(section, griffe.DocstringSectionRaises):
            rows = ((code(each.annotation), each.description) for each in section.value)
            yield table(("Raises", "When"), rows)
        elif isinstance(
            section, griffe.DocstringSectionParameters | griffe.DocstringSectionAttributes
        ):
            names = ((code(each.name), each.description) for each in section.value)
            yield table(("Name", "Meaning"), names)
        elif isinstance(section, griffe.DocstringSectionReturns | griffe.DocstringSectionYields):
            yield f"Returns: {' '.join(paragraph(each.description) for each in section.value)}"
        yield "\n\n"
