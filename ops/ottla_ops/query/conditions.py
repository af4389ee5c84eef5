"""Which bounds the WHERE clause of a statement sets on partition, offset and timestamp. Pure.

Records outside these bounds need not be read. So a bound may be missed, which costs time, but never
invented: SQLite evaluates the whole statement all the same, over what was read.

Understood is the one shape that bounds can be read off without doubt: a single SELECT from a
single table, whose WHERE clause is a conjunction (AND). Of its terms those are taken that compare
one of the three columns with a constant: `=`, `==`, `<`, `<=`, `>`, `>=`, BETWEEN, IN. A constant
is made of numbers, text, arithmetic and `unixepoch`, and SQLite works it out. Everything else (OR,
joins, subqueries, functions of the column) sets no bounds.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, TypeAlias

from ottla_ops.query.sql_tokens import Token, TokenKind
from ottla_ops.records.selection import Bounds, Selection

Evaluate: TypeAlias = Callable[[str], int | None]
"""A constant SQL expression to its value; None if it is no integer or does not stand alone."""

COLUMNS: Final = ("partition", "offset", "timestamp")

MEMBERS_MAX: Final = 1_000
"""Members of an IN list that are looked at; longer ones set no bounds."""

_FORBIDDEN: Final = ("join", "union", "intersect", "except", "with", "explain")
_CLAUSE_ENDS: Final = ("group", "order", "having", "limit", "window")
_BEFORE_WHERE: Final = ("where", *_CLAUSE_ENDS)
_FLIPPED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "==": "=="}
_CONSTANT_WORDS: Final = ("unixepoch", "cast", "as", "integer")
_CONSTANT_SYMBOLS: Final = ("+", "-", "*", "/", "(", ")", ",")

Tokens: TypeAlias = Sequence[Token]


def bounds_of(tokens: Tokens, table: str, evaluate: Evaluate) -> Selection:
    """The bounds that a statement sets on the records of `table`, its only topic."""
    where, names = _where_clause(tokens, table)
    selection = Selection()
    for term in _terms(where):
        found = _bounds_of_term(term, names, evaluate)
        if found is not None:
            column, bounds = found
            selection = selection.both(Selection(**{column: bounds}))
    return selection


def _where_clause(tokens: Tokens, table: str) -> tuple[Tokens, frozenset[str]]:
    """The tokens of the WHERE clause, and what the table is called in it; none if in doubt."""
    nothing: tuple[Tokens, frozenset[str]] = ((), frozenset())
    counts = {word: sum(token.is_word(word) for token in tokens) for word in ("select", "from")}
    if set(counts.values()) != {1} or any(token.is_word(*_FORBIDDEN) for token in tokens):
        return nothing
    place = next(index for index, token in enumerate(tokens) if token.is_word("from")) + 1
    rest = list(tokens[place:])
    if len(rest) > 2 and rest[1].is_symbol("."):
        rest = rest[2:]
    if not rest or not _names(rest[0], table):
        return nothing
    names = {table.lower()}
    rest = rest[1:]
    if rest and rest[0].is_word("as"):
        rest = rest[1:]
    if rest and _is_identifier(rest[0]) and not rest[0].is_word(*_BEFORE_WHERE):
        names = {rest[0].name.lower()}
        rest = rest[1:]
    if not rest or not rest[0].is_word("where"):
        return nothing
    return _until_clause_end(rest[1:]), frozenset(names)


def _until_clause_end(tokens: Tokens) -> Tokens:
    for index, (token, depth) in enumerate(zip(tokens, _depths(tokens), strict=True)):
        if depth == 0 and (token.is_word(*_CLAUSE_ENDS) or token.is_symbol(";")):
            return tokens[:index]
    return tokens


def _depths(tokens: Tokens) -> list[int]:
    """How deep each token is in parentheses and CASE ... END; these themselves count as inside."""
    depths, depth = [], 0
    for token in tokens:
        if token.is_symbol("(") or token.is_word("case"):
            depth += 1
            depths.append(depth)
        else:
            depths.append(depth)
            if token.is_symbol(")") or token.is_word("end"):
                depth -= 1
    return depths


def _terms(tokens: Tokens) -> list[Tokens]:
    """The terms of a conjunction; none at all where an OR stands beside them."""
    tokens = _without_parentheses(tokens)
    depths = _depths(tokens)
    cuts, is_between = [], False
    for index, token in enumerate(tokens):
        if depths[index]:
            continue
        if token.is_word("or"):
            return []
        if token.is_word("between"):
            is_between = True
        elif token.is_word("and"):
            if not is_between:
                cuts.append(index)
            is_between = False
    if not cuts:
        return [tokens] if tokens else []
    starts = [0, *(cut + 1 for cut in cuts)]
    parts = [tokens[start:end] for start, end in zip(starts, [*cuts, len(tokens)], strict=True)]
    return [term for part in parts for term in _terms(part)]


def _without_parentheses(tokens: Tokens) -> Tokens:
    """The tokens without pairs of parentheses around all of them."""
    while (
        len(tokens) > 2
        and tokens[0].is_symbol("(")
        and tokens[-1].is_symbol(")")
        and _closes_last(tokens)
    ):
        tokens = tokens[1:-1]
    return tokens


def _closes_last(tokens: Tokens) -> bool:
    """Whether the first token's parenthesis is closed by the last one."""
    depth = 0
    for index, token in enumerate(tokens):
        depth += token.is_symbol("(") - token.is_symbol(")")
        if depth == 0:
            return index == len(tokens) - 1
    return False


def _bounds_of_term(
    term: Tokens, names: frozenset[str], evaluate: Evaluate
) -> tuple[str, Bounds] | None:
    column, rest = _leading_column(term, names)
    if column is None:
        # 5 < offset
        place = next((i for i, token in enumerate(term) if token.source in _FLIPPED), None)
        if place is None:
            return None
        column, after = _leading_column(term[place + 1 :], names)
        if column is None or after:
            return None
        bounds = _comparison(_FLIPPED[term[place].source], _constant(term[:place], evaluate))
    elif rest and rest[0].source in _FLIPPED:
        bounds = _comparison(rest[0].source, _constant(rest[1:], evaluate))
    elif rest and rest[0].is_word("between"):
        bounds = _between(rest[1:], evaluate)
    elif rest and rest[0].is_word("in"):
        bounds = _in(rest[1:], evaluate)
    else:
        bounds = None
    return None if bounds is None else (column, bounds)


def _leading_column(tokens: Tokens, names: frozenset[str]) -> tuple[str | None, Tokens]:
    """The column that the tokens begin with, and what follows it."""
    rest = tokens
    if len(rest) > 2 and rest[1].is_symbol(".") and _is_identifier(rest[0]):
        if rest[0].name.lower() not in names:
            return None, tokens
        rest = rest[2:]
    if not rest or not _is_identifier(rest[0]) or rest[0].name.lower() not in COLUMNS:
        return None, tokens
    return rest[0].name.lower(), rest[1:]


def _comparison(operator: str, value: int | None) -> Bounds | None:
    if value is None:
        return None
    match operator:
        case "<":
            return Bounds(high=value - 1)
        case "<=":
            return Bounds(high=value)
        case ">":
            return Bounds(low=value + 1)
        case ">=":
            return Bounds(low=value)
        case _:
            return Bounds(value, value)


def _between(tokens: Tokens, evaluate: Evaluate) -> Bounds | None:
    depths = _depths(tokens)
    place = next(
        (i for i, token in enumerate(tokens) if token.is_word("and") and depths[i] == 0), None
    )
    if place is None:
        return None
    low, high = _constant(tokens[:place], evaluate), _constant(tokens[place + 1 :], evaluate)
    return None if low is None or high is None else Bounds(low, high)


def _in(tokens: Tokens, evaluate: Evaluate) -> Bounds | None:
    if not tokens or not tokens[0].is_symbol("(") or not _closes_last(tokens):
        return None
    members: list[int] = []
    start = 1
    for index, (token, depth) in enumerate(zip(tokens, _depths(tokens), strict=True)):
        is_end = index == len(tokens) - 1
        if is_end or (depth == 1 and token.is_symbol(",")):
            value = _constant(tokens[start:index], evaluate)
            if value is None or len(members) == MEMBERS_MAX:
                return None
            members.append(value)
            start = index + 1
    return Bounds(among=frozenset(members))


def _constant(tokens: Tokens, evaluate: Evaluate) -> int | None:
    """The value of a constant expression; None where it may not be one.

    The present time is no constant: it moves on until the statement runs.
    """
    if not tokens or any(not _is_constant(token) for token in tokens):
        return None
    is_call_without_arguments = any(
        before.is_symbol("(") and after.is_symbol(")") for before, after in pairwise(tokens)
    )
    if is_call_without_arguments:
        return None
    return evaluate(" ".join(token.source for token in tokens))


def _is_constant(token: Token) -> bool:
    match token.kind:
        case TokenKind.NUMBER:
            return True
        case TokenKind.TEXT:
            # A blob may spell it too.
            return token.source.startswith("'") and token.source.lower() != "'now'"
        case TokenKind.WORD:
            return token.is_word(*_CONSTANT_WORDS)
        case TokenKind.SYMBOL:
            return token.is_symbol(*_CONSTANT_SYMBOLS)
        case _:
            return False


def _is_identifier(token: Token) -> bool:
    return token.kind in (TokenKind.WORD, TokenKind.QUOTED)


def _names(token: Token, table: str) -> bool:
    return _is_identifier(token) and token.name.lower() == table.lower()
