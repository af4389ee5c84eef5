"""SQL text to tokens, as SQLite's tokenizer does it, without the comments. Pure.

Only to look for bounds in a condition (`conditions`): what a statement means, SQLite alone decides.
"""

import re
from enum import StrEnum
from typing import Final, NamedTuple


class TokenKind(StrEnum):
    """What a token is."""

    WORD = "word"
    QUOTED = "quoted"
    TEXT = "text"
    NUMBER = "number"
    SYMBOL = "symbol"


class Token(NamedTuple):
    """One token.

    Attributes:
        kind: what it is.
        source: as it was written.
        name: of a WORD or QUOTED, the identifier that it stands for; of others the source.
    """

    kind: TokenKind
    source: str
    name: str

    def is_word(self, *words: str) -> bool:
        """Whether it is one of these keywords, given in lower case."""
        return self.kind is TokenKind.WORD and self.source.lower() in words

    def is_symbol(self, *symbols: str) -> bool:
        """Whether it is one of these symbols."""
        return self.kind is TokenKind.SYMBOL and self.source in symbols


_TOKEN: Final = re.compile(
    r"""
      (?P<blank> \s+ | --[^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<text> [xX]?'(?:[^']|'')*' )
    | (?P<quoted> "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\] )
    | (?P<number> 0[xX][0-9a-fA-F]+ | (?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)? )
    | (?P<word> [^\W\d][\w$]* )
    | (?P<symbol> ->> | -> | <= | >= | <> | != | == | << | >> | \|\| | . )
    """,
    re.VERBOSE | re.DOTALL,
)


def tokenize(sql: str) -> list[Token]:
    """The tokens of a statement; what is not SQL comes out as symbols."""
    tokens = []
    for match in _TOKEN.finditer(sql):
        kind, source = match.lastgroup, match.group()
        if kind == "blank" or kind is None:
            continue
        tokens.append(Token(TokenKind(kind), source, _name(kind, source)))
    return tokens


def _name(kind: str, source: str) -> str:
    if kind != "quoted":
        return source
    inner, quote = source[1:-1], source[0]
    return inner if quote == "[" else inner.replace(quote * 2, quote)
