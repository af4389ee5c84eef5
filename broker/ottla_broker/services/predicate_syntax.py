"""The grammar of `where`: RFC 9535's logical expressions (section 2.3.5.1), and what is left out.

    $.origin == "JFK" && $.dep_delay > 30
    !$.tailnum || ($['air time'] <= 60 && $.stops[0] != null)

This is what stands behind the `?` of a JSONPath filter; `$` and `@` both mean the record's value.
Left out is all whose cost is not plain from the text: functions (`match` and `search` run regular
expressions), and queries that may select many nodes (`*`, `..`, slices, unions, filters in
filters). What is left costs one step for each name in the text.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias, cast

import msgspec

from ottla_protocol.errors import InvalidRequestError

MAX_PREDICATE_CHARACTERS: Final = 2_000
"""The longest expression: with it the terms, and the work for each record, are bounded."""

MAX_PREDICATE_DEPTH: Final = 20
"""Parentheses within each other."""

Operator: TypeAlias = Literal["==", "!=", "<", "<=", ">", ">="]


@dataclass(frozen=True, slots=True)
class Path:
    """A singular query: from the value down by member names and array indices."""

    segments: tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Constant:
    """A number, string, true, false or null."""

    value: str | int | float | bool | None


Comparable: TypeAlias = Path | Constant


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two comparables and how they have to compare."""

    operator: Operator
    left: Comparable
    right: Comparable


@dataclass(frozen=True, slots=True)
class Existence:
    """Whether there is something at the path, if only null."""

    path: Path


@dataclass(frozen=True, slots=True)
class Negation:
    """Not what follows."""

    operand: "Expression"


@dataclass(frozen=True, slots=True)
class Conjunction:
    """All of them."""

    operands: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class Disjunction:
    """Any of them."""

    operands: "tuple[Expression, ...]"


Expression: TypeAlias = Comparison | Existence | Negation | Conjunction | Disjunction


class _Token(NamedTuple):
    kind: str
    text: str
    position: int


_TOKENS = re.compile(
    r"""(?P<space>[ \t\n\r]+)
    |(?P<number>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![A-Za-z0-9_.]))
    |(?P<string>"(?:[^"\\\x00-\x1f]|\\.)*+"|'(?:[^'\\\x00-\x1f]|\\.)*+')
    |(?P<name>[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*+)
    |(?P<symbol>==|!=|<=|>=|&&|\|\||[<>!()\[\].$@])""",
    re.VERBOSE,
)
_OPERATORS: Final = ("==", "!=", "<", "<=", ">", ">=")
_WORDS: Final = {"true": True, "false": False, "null": None}
_MAX_INDEX: Final = 2**53 - 1
"""RFC 9535 section 2.1: integers are those that I-JSON tells exactly."""


def parse_expression(text: str) -> Expression:
    """Read one expression.

    Raises:
        InvalidRequestError: it does not parse, or is over a limit; members `parameter` and
            `position` (in characters, from 0).
    """
    if len(text) > MAX_PREDICATE_CHARACTERS:
        raise InvalidRequestError(
            f"where has {len(text)} characters, at most {MAX_PREDICATE_CHARACTERS} are taken",
            parameter="where",
        )
    parser = _Parser(_tokens(text), len(text))
    expression = parser.disjunction(0)
    if parser.token.kind != "end":
        raise parser.refused("&&, || or the end is due")
    return expression


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    position = 0
    while position < len(text):
        found = _TOKENS.match(text, position)
        if found is None:
            rule = "equal is written ==" if text[position] == "=" else "no token begins with it"
            raise _refused(text[position], position, rule)
        kind = found.lastgroup
        assert kind is not None
        if kind != "space":
            tokens.append(_Token(kind, found[0], position))
        position = found.end()
    return tokens


def _refused(near: str, position: int, rule: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"where, at character {position} ({near!r}): {rule}",
        parameter="where",
        position=position,
    )


class _Parser:
    """Recursive descent; each method reads one production from the current token on."""

    def __init__(self, tokens: list[_Token], length: int) -> None:
        self._tokens = tokens
        self._end = _Token("end", "", length)
        self._place = 0

    @property
    def token(self) -> _Token:
        """The next token, `end` behind the last."""
        return self._tokens[self._place] if self._place < len(self._tokens) else self._end

    def refused(self, rule: str) -> InvalidRequestError:
        """The error at the current token."""
        return _refused(self.token.text or "the end", self.token.position, rule)

    def _is_at(self, *symbols: str) -> bool:
        return self.token.kind == "symbol" and self.token.text in symbols

    def _take(self) -> _Token:
        token = self.token
        self._place += 1
        return token

    def _expect(self, symbol: str) -> None:
        if not self._is_at(symbol):
            raise self.refused(f"'{symbol}' is due")
        self._place += 1

    def disjunction(self, depth: int) -> Expression:
        operands = [self._conjunction(depth)]
        while self._is_at("||"):
            self._place += 1
            operands.append(self._conjunction(depth))
        return operands[0] if len(operands) == 1 else Disjunction(tuple(operands))

    def _conjunction(self, depth: int) -> Expression:
        operands = [self._basic(depth)]
        while self._is_at("&&"):
            self._place += 1
            operands.append(self._basic(depth))
        return operands[0] if len(operands) == 1 else Conjunction(tuple(operands))

    def _basic(self, depth: int) -> Expression:
        """A comparison, a test or parentheses; the latter two may be negated."""
        is_negated = self._is_at("!")
        if is_negated:
            self._place += 1
        if self._is_at("("):
            if depth == MAX_PREDICATE_DEPTH:
                raise self.refused(f"more than {MAX_PREDICATE_DEPTH} parentheses within each other")
            self._place += 1
            inner = self.disjunction(depth + 1)
            self._expect(")")
            return Negation(inner) if is_negated else inner
        left = self._comparable()
        if not is_negated and self._is_at(*_OPERATORS):
            operator = cast(Operator, self._take().text)
            return Comparison(operator, left, self._comparable())
        if isinstance(left, Constant):
            raise self.refused("a literal has to be compared with something")
        return Negation(Existence(left)) if is_negated else Existence(left)

    def _comparable(self) -> Comparable:
        token = self.token
        if self._is_at("$", "@"):
            return self._path()
        if token.kind == "number":
            return Constant(_number(self._take()))
        if token.kind == "string":
            return Constant(_string(self._take()))
        if token.kind == "name":
            if token.text in _WORDS:
                self._place += 1
                return Constant(_WORDS[token.text])
            raise self.refused("names stand behind '$.'; there are no functions here")
        raise self.refused("a path ($.name), a number, a string, true, false or null is due")

    def _path(self) -> Path:
        self._place += 1
        segments: list[str | int] = []
        while True:
            if self._is_at("."):
                self._place += 1
                if self.token.kind != "name":
                    raise self.refused("a name is due; others are written ['so']")
                segments.append(self._take().text)
            elif self._is_at("["):
                self._place += 1
                segments.append(self._selector())
                self._expect("]")
            else:
                return Path(tuple(segments))

    def _selector(self) -> str | int:
        token = self.token
        if token.kind == "string":
            return _string(self._take())
        if token.kind == "number":
            number = _number(token)
            is_index = not set(token.text) & set(".eE") and token.text != "-0"
            if is_index and abs(number) <= _MAX_INDEX:
                self._place += 1
                return int(number)
        raise self.refused("one 'name' or one index is due")


def _number(token: _Token) -> int | float:
    try:
        number = msgspec.json.decode(token.text)
    except msgspec.DecodeError as error:
        raise _refused(token.text, token.position, "the number is out of range") from error
    assert isinstance(number, int | float)
    return number


_QUOTES_TO_CHANGE = re.compile(r"""\\'|"|\\.""", re.DOTALL)


def _string(token: _Token) -> str:
    """The text of a literal: JSON's escapes, and that of the single quote within single quotes."""
    text = token.text
    if text[0] == "'":
        changes = {r"\'": "'", '"': r"\""}
        inner = _QUOTES_TO_CHANGE.sub(lambda found: changes.get(found[0], found[0]), text[1:-1])
        text = f'"{inner}"'
    try:
        return msgspec.json.decode(text, type=str)
    except msgspec.DecodeError as error:
        raise _refused(
            token.text, token.position, "the string has an escape that JSON does not know"
        ) from error
