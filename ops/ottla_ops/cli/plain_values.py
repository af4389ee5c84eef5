"""Takes the plain values of a command line without pydantic, whose import alone is most of a start.

Typer hands each value, also one that nobody gave, to a validator of pydantic. Nearly all are texts,
flags, small numbers and choices, of which one can see that they are right. What one cannot see at
once goes the way that it always went, so errors read as typer's, and a typer that has other insides
is merely slower.
"""

import re
from enum import Enum
from pathlib import Path
from typing import Any, Final, get_args, get_origin

DOUBTFUL: Final = object()
"""What `plain_value` says of a value that somebody else has to look at."""

_WHOLE: Final = re.compile(r"-?[0-9]{1,18}")
_DECIMAL: Final = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")


def plain_value(value: Any, annotation: Any, info: Any) -> Any:
    """The value as the command gets it, or `DOUBTFUL`.

    Args:
        value: a text from the command line, or a default.
        annotation: the parameter's type, without None.
        info: typer's `ParameterInfo`: bounds, parser and the like.
    """
    if info.parser is not None:
        return DOUBTFUL
    if get_origin(annotation) is list:
        if not isinstance(value, (list, tuple)):
            return DOUBTFUL
        (of_each,) = get_args(annotation)
        found = [plain_value(each, of_each, info) for each in value]
        return DOUBTFUL if any(each is DOUBTFUL for each in found) else found
    if annotation is str:
        return value if isinstance(value, str) else DOUBTFUL
    if annotation is bool:
        return value if isinstance(value, bool) else DOUBTFUL
    if annotation in (int, float):
        return _number(value, annotation, info)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return _choice(value, annotation, info)
    return _path(value, info) if annotation is Path else DOUBTFUL


def take_plain_values() -> None:
    """Let typer's parameters take plain values at once, in this process."""
    import typer.core

    try:
        from typer._coercion import RuntimeParam, TypeDescriptor, build_runtime_param
    except ImportError:  # pragma: no cover - a typer with other insides
        return

    class PlainFirst(RuntimeParam):
        def _coerce_value(self, value: Any, param: Any, ctx: Any) -> Any:
            found = plain_value(value, self.annotation, self.parameter_info)
            if found is not DOUBTFUL:
                return found
            checked = build_runtime_param(param.type_descriptor)
            return checked.coerce(value, param=param, ctx=ctx)

    def plain_first(descriptor: TypeDescriptor) -> RuntimeParam:
        return PlainFirst(descriptor.parameter_info, descriptor.annotation)

    # Each parameter asks for this when it first gets a value; there is no setting for it.
    typer.core.build_runtime_param = plain_first  # type: ignore[attr-defined]


def _number(value: Any, kind: type[int] | type[float], info: Any) -> Any:
    if isinstance(value, str):
        if not (_WHOLE if kind is int else _DECIMAL).fullmatch(value):
            return DOUBTFUL
    elif type(value) is not kind:
        return DOUBTFUL
    number = kind(value)
    too_small = info.min is not None and number < info.min
    too_large = info.max is not None and number > info.max
    return DOUBTFUL if too_small or too_large else number


def _choice(value: Any, kind: type[Enum], info: Any) -> Any:
    if isinstance(value, kind):
        return value
    if not info.case_sensitive:
        return DOUBTFUL
    return next((each for each in kind if each.value == value), DOUBTFUL)


def _path(value: Any, info: Any) -> Any:
    """A path of which nothing is asked, neither that it exists nor what it is."""
    is_bare = info.file_okay and info.dir_okay and not info.writable and info.path_type is None
    if not isinstance(value, str) or not is_bare or info.exists or info.resolve_path:
        return DOUBTFUL
    path = Path(value)
    # What is there must be readable, which typer checks.
    return DOUBTFUL if info.allow_dash or path.exists() else path
