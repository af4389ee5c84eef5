r"""Which topic names a subscription's pattern matches.

A pattern is a client's, and the coordinator serves others meanwhile: a backtracking matcher takes
hours over `(a+)+b`. So patterns are a small regular language and run as an automaton, whose work
for one name is bounded by the name's length times the pattern's.

    alternatives  a|b          group   (ab)         repeated  x*  x+  x?
    any           .            class   [a-z_] [^.]  literal   the rest, or \ before a special one

A pattern matches whole names; `^` at its start and `$` at its end are allowed and say so.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ottla_cluster.groups.limits import MAX_PATTERN_LENGTH
from ottla_protocol.errors import InvalidPatternError

_SPECIAL = frozenset("\\^$.|?*+()[]{}")
_REPEATS = frozenset("*+?")
_MAX_DEPTH = 20
_MAX_REMEMBERED_MOVES = 10_000


@dataclass(frozen=True, slots=True)
class _Characters:
    """One character of a name."""

    members: frozenset[str]
    negated: bool

    def matches(self, character: str) -> bool:
        return (character in self.members) != self.negated


_ANY = _Characters(frozenset(), negated=True)


class Pattern:
    """A parsed pattern.

    Raises:
        InvalidPatternError: it does not parse, or is over MAX_PATTERN_LENGTH characters.
    """

    def __init__(self, text: str) -> None:
        if not 0 < len(text) <= MAX_PATTERN_LENGTH:
            raise InvalidPatternError(
                f"pattern must have 1 to {MAX_PATTERN_LENGTH} characters; it has {len(text)}."
            )
        self._characters: list[_Characters | None] = []
        self._next: list[list[int]] = []
        parser = _Parser(text, self)
        start, self._end = parser.parsed()
        self._first = self._closure((start,))
        self._moves: dict[tuple[frozenset[int], str], frozenset[int]] = {}

    def matches(self, name: str) -> bool:
        """Whether the whole name matches."""
        states = self._first
        for character in name:
            following = self._moves.get((states, character))
            states = self._move(states, character) if following is None else following
            if not states:
                return False
        return self._end in states

    def _move(self, states: frozenset[int], character: str) -> frozenset[int]:
        """The states after one more character; remembered, as names share most of their moves."""
        following = self._closure(
            self._next[state][0]
            for state in states
            if (wanted := self._characters[state]) is not None and wanted.matches(character)
        )
        if len(self._moves) >= _MAX_REMEMBERED_MOVES:
            self._moves.clear()
        self._moves[states, character] = following
        return following

    def _closure(self, states: Iterable[int]) -> frozenset[int]:
        """These states and all that are reached without a character."""
        reached: set[int] = set()
        pending = list(states)
        while pending:
            state = pending.pop()
            if state not in reached:
                reached.add(state)
                if self._characters[state] is None:
                    pending.extend(self._next[state])
        return frozenset(reached)

    def add_state(self, characters: _Characters | None) -> int:
        """A new state: it takes one of the characters, or none if that is None."""
        self._characters.append(characters)
        self._next.append([])
        return len(self._next) - 1

    def add_edge(self, source: int, target: int) -> None:
        """The automaton may go from one state to the other."""
        self._next[source].append(target)


class _Parser:
    """Recursive descent that builds the automaton (Thompson's construction)."""

    def __init__(self, text: str, pattern: Pattern) -> None:
        self._text = text.removeprefix("^")
        if self._text.endswith("$") and not self._text.endswith("\\$"):
            self._text = self._text[:-1]
        self._pattern = pattern
        self._position = 0

    def parsed(self) -> tuple[int, int]:
        """The automaton's first and last state."""
        fragment = self._alternatives(0)
        if self._position != len(self._text):
            raise self._error("no ')' may stand here")
        return fragment

    def _alternatives(self, depth: int) -> tuple[int, int]:
        if depth > _MAX_DEPTH:
            raise self._error(f"groups nest deeper than {_MAX_DEPTH}")
        start, end = self._pattern.add_state(None), self._pattern.add_state(None)
        while True:
            first, last = self._sequence(depth)
            self._pattern.add_edge(start, first)
            self._pattern.add_edge(last, end)
            if self._peek() != "|":
                return start, end
            self._position += 1

    def _sequence(self, depth: int) -> tuple[int, int]:
        start = end = self._pattern.add_state(None)
        while self._peek() not in {"", "|", ")"}:
            first, last = self._repeated(depth)
            self._pattern.add_edge(end, first)
            end = last
        return start, end

    def _repeated(self, depth: int) -> tuple[int, int]:
        first, last = self._atom(depth)
        repeat = self._peek()
        if repeat not in _REPEATS:
            return first, last
        self._position += 1
        if self._peek() in _REPEATS:
            raise self._error("nothing stands before the second of two repeats")
        start, end = self._pattern.add_state(None), self._pattern.add_state(None)
        self._pattern.add_edge(start, first)
        self._pattern.add_edge(last, end)
        if repeat in {"*", "?"}:
            self._pattern.add_edge(start, end)
        if repeat in {"*", "+"}:
            self._pattern.add_edge(last, first)
        return start, end

    def _atom(self, depth: int) -> tuple[int, int]:
        character = self._take()
        match character:
            case "(":
                fragment = self._alternatives(depth + 1)
                if self._take() != ")":
                    raise self._error("a group is not closed")
                return fragment
            case ".":
                return self._one(_ANY)
            case "[":
                return self._one(self._class())
            case "\\":
                return self._one(_Characters(frozenset(self._escaped()), negated=False))
        if character in _SPECIAL:
            raise self._error(f"{character!r} may not stand here")
        return self._one(_Characters(frozenset(character), negated=False))

    def _one(self, characters: _Characters) -> tuple[int, int]:
        start, end = self._pattern.add_state(characters), self._pattern.add_state(None)
        self._pattern.add_edge(start, end)
        return start, end

    def _class(self) -> _Characters:
        negated = self._peek() == "^"
        if negated:
            self._position += 1
        members: list[str] = []
        while (character := self._take()) != "]":
            low = self._escaped() if character == "\\" else character
            high = low
            if self._peek() == "-" and self._text[self._position + 1 :][:1] not in {"", "]"}:
                self._position += 1
                high = self._take()
            if not "\x20" <= low <= high <= "\x7e":
                raise self._error("a class holds ASCII characters, in rising ranges")
            members.extend(chr(code) for code in range(ord(low), ord(high) + 1))
        if not members:
            raise self._error("a class is empty")
        return _Characters(frozenset(members), negated)

    def _escaped(self) -> str:
        character = self._take()
        if character not in _SPECIAL and character != "-":
            raise self._error("'\\' stands before a special character only")
        return character

    def _peek(self) -> str:
        return self._text[self._position : self._position + 1]

    def _take(self) -> str:
        character = self._peek()
        if not character:
            raise self._error("it ends too early")
        self._position += 1
        return character

    def _error(self, rule: str) -> InvalidPatternError:
        return InvalidPatternError(
            f"pattern does not parse: {rule} (near character {self._position + 1})."
        )
