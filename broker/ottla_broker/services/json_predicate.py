"""Whether a record's value satisfies a `where`: see `predicate_syntax` for how one is written.

Comparisons are RFC 9535's (section 2.3.5.2.2). What has no counterpart in the value is *nothing*:
it equals only nothing, and is neither less nor greater. Numbers compare with numbers, strings with
strings by code points; other pairs are never less or greater. Arrays and objects are equal where
all in them is.

Only the members that the expression names are made Python objects of: msgspec passes over the
others, which is most of the work.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import UNSET

from ottla_broker.services.predicate_syntax import (
    Comparison,
    Conjunction,
    Constant,
    Disjunction,
    Existence,
    Expression,
    Negation,
    Operator,
    Path,
    parse_expression,
)

_NOTHING: Final = UNSET

_Slots: TypeAlias = Sequence[Any]
"""What the value has at each path of the expression, in the order of `_Compiler.paths`."""

_Test: TypeAlias = Callable[[_Slots], bool]

_NUMBERS: Final = (int, float)
_decode_any = msgspec.json.Decoder().decode


class JsonPredicate:
    """A parsed `where`, to be asked about many values. It may be used from any thread.

    Args:
        text: the expression.

    Raises:
        InvalidRequestError: it does not parse, or is over a limit.
    """

    def __init__(self, text: str) -> None:
        expression = parse_expression(text)
        compiler = _Compiler()
        self.text = text
        self._test = compiler.test(expression)
        self._paths = tuple(compiler.paths)
        self._needles = tuple(_needles(expression))
        self._decode = _members_decoder(self._paths)
        self._tails = tuple(path.segments[1:] for path in self._paths)

    def matches(self, value: bytes | None) -> bool:
        """Whether the value is JSON and satisfies the expression.

        A tombstone, and what is no JSON or nested too deeply to be read, satisfies none, be it a
        negation.
        """
        if value is None:
            return False
        for needle in self._needles:
            # A string may also be written with escapes.
            if needle not in value and b"\\" not in value:
                return False
        try:
            return self._test(self._slots(value))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False

    def _slots(self, value: bytes) -> _Slots:
        if self._decode is not None:
            try:
                heads = msgspec.structs.astuple(self._decode(value))
            except msgspec.ValidationError:
                # JSON, but no object.
                pass
            else:
                return [
                    _descend(head, tail) if tail else head
                    for head, tail in zip(heads, self._tails, strict=True)
                ]
        document = _decode_any(value)
        return [_descend(document, path.segments) for path in self._paths]


def _members_decoder(paths: Sequence[Path]) -> Callable[[bytes], Any] | None:
    """Decodes only the members of the root that the paths begin with; None if they need all of it.

    The struct has one field for each path; where two begin alike, the later ones are read off an
    object of their own, which no decoder does. So then all of it is decoded.
    """
    heads = [path.segments[0] if path.segments else None for path in paths]
    names = [head for head in heads if isinstance(head, str)]
    if not names or len(set(names)) < len(heads):
        return None
    fields = [(f"field_{index}", Any, _NOTHING) for index in range(len(names))]
    rename = {f"field_{index}": name for index, name in enumerate(names)}
    struct = msgspec.defstruct("Members", fields, rename=rename, gc=False)
    return msgspec.json.Decoder(struct).decode


def _descend(node: Any, segments: Sequence[str | int]) -> Any:
    for segment in segments:
        if isinstance(segment, str):
            node = node.get(segment, _NOTHING) if isinstance(node, dict) else _NOTHING
        elif isinstance(node, list) and -len(node) <= segment < len(node):
            node = node[segment]
        else:
            return _NOTHING
    return node


def _needles(expression: Expression) -> list[bytes]:
    """JSON texts that a value without escapes must contain, or the expression is false of it."""
    if isinstance(expression, Conjunction):
        return [needle for operand in expression.operands for needle in _needles(operand)]
    if isinstance(expression, Comparison) and expression.operator == "==":
        for side, other in (
            (expression.left, expression.right),
            (expression.right, expression.left),
        ):
            if isinstance(side, Constant) and isinstance(side.value, str):
                needle = msgspec.json.encode(side.value)
                return [needle] if isinstance(other, Path) and b"\\" not in needle else []
    return []


# --- compiling ------------------------------------------------------------------------------


class _Compiler:
    """Makes closures of an expression, and collects its paths, each once."""

    def __init__(self) -> None:
        self.paths: dict[Path, int] = {}

    def test(self, expression: Expression) -> _Test:
        """The expression as a function of the slots."""
        if isinstance(expression, Comparison):
            return self._comparison(expression)
        if isinstance(expression, Existence):
            slot = self._slot(expression.path)
            return lambda slots: slots[slot] is not _NOTHING
        if isinstance(expression, Negation):
            negated = self.test(expression.operand)
            return lambda slots: not negated(slots)
        operands = [self.test(operand) for operand in expression.operands]
        if isinstance(expression, Disjunction):
            return lambda slots: any(operand(slots) for operand in operands)
        if len(operands) == 2:
            first, second = operands
            return lambda slots: first(slots) and second(slots)
        return lambda slots: all(operand(slots) for operand in operands)

    def _slot(self, path: Path) -> int:
        return self.paths.setdefault(path, len(self.paths))

    def _comparison(self, comparison: Comparison) -> _Test:
        left, right = comparison.left, comparison.right
        compare = _COMPARISONS[comparison.operator]
        if isinstance(left, Path):
            slot = self._slot(left)
            if isinstance(right, Constant):
                return _with_constant(comparison.operator, slot, right.value)
            other = self._slot(right)
            return lambda slots: compare(slots[slot], slots[other])
        constant = left.value
        if isinstance(right, Path):
            slot = self._slot(right)
            return _with_constant(_FLIPPED[comparison.operator], slot, constant)
        result = compare(constant, right.value)
        return lambda _: result


def _with_constant(name: Operator, slot: int, constant: Any) -> _Test:
    """The comparisons that are asked most, without the calls of the general ones."""
    quick = _QUICK.get(name)
    if quick is None or constant is None or isinstance(constant, bool):
        compare = _COMPARISONS[name]
        return lambda slots: compare(slots[slot], constant)
    if isinstance(constant, str):
        return lambda slots: type(found := slots[slot]) is str and quick(found, constant)
    return lambda slots: type(found := slots[slot]) in _NUMBERS and quick(found, constant)


_QUICK: Final[dict[Operator, Callable[[Any, Any], bool]]] = {
    "==": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _equal(left: Any, right: Any) -> bool:
    kind = type(left)
    if kind in _NUMBERS:
        return type(right) in _NUMBERS and bool(left == right)
    if kind is not type(right):
        return False
    if kind is list:
        return len(left) == len(right) and all(map(_equal, left, right))
    if kind is dict:
        return left.keys() == right.keys() and all(
            _equal(member, right[name]) for name, member in left.items()
        )
    return bool(left == right)


def _less(left: Any, right: Any) -> bool:
    if type(left) is str:
        return type(right) is str and left < right
    return type(left) in _NUMBERS and type(right) in _NUMBERS and bool(left < right)


_COMPARISONS: Final[dict[Operator, Callable[[Any, Any], bool]]] = {
    "==": _equal,
    "!=": lambda left, right: not _equal(left, right),
    "<": _less,
    "<=": lambda left, right: _less(left, right) or _equal(left, right),
    ">": lambda left, right: _less(right, left),
    ">=": lambda left, right: _less(right, left) or _equal(left, right),
}
_FLIPPED: Final[dict[Operator, Operator]] = {
    "==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<=",
}  # fmt: skip
