"""The code blocks of a page of documentation, and the marks that say how they are run.

A mark is an HTML comment on the line before a block:

    <!-- not run: why it cannot be run here -->
    <!-- fails -->      its last command is refused
    <!-- endless -->    ended when it has printed as many lines as the output beneath it shows
    <!-- goes on -->    starts a cluster in a terminal of its own; the next blocks run beside it
"""

import re
from dataclasses import dataclass

RUN = ("sh", "python")
OUTPUT = ("json", "text")
PICTURE = ("text", "mermaid")
NOT_RUN, FAILS, ENDLESS, GOES_ON = "not run", "fails", "endless", "goes on"
REASON_MIN = 10

FENCE = re.compile(
    r"^(?P<fence>`{3,})(?P<language>[^`\n]*)\n(?P<text>.*?)^(?P=fence)$", re.MULTILINE | re.DOTALL
)
ANY_FENCE = re.compile(r"^[ >]*(?:`{3,}|~{3,})", re.MULTILINE)
MARK = re.compile(rf"<!-- *({NOT_RUN}|{FAILS}|{ENDLESS}|{GOES_ON})\b:? *([^>]*?) *-->")
MARK_BEFORE = re.compile(MARK.pattern + r"\n\s*\Z")


class PageError(Exception):
    """A page that cannot be run as it is; the message names the line."""


@dataclass
class Block:
    """One fenced block: its language, what stands in it, its line, its mark and shown output."""

    language: str
    text: str
    line: int
    mark: str = ""
    reason: str = ""
    output: "Block | None" = None

    @property
    def is_run(self):
        return self.language in RUN and self.mark != NOT_RUN


def blocks_of(text):
    """The blocks that are run or marked as not run, in order, each with its output.

    Raises:
        PageError: a block that is none of that, or a mark without a block.
    """
    found, marks, fences = [], 0, 0
    previous, end = None, 0
    for fence in FENCE.finditer(text):
        fences += 2
        before = text[end : fence.start()]
        end = fence.end()
        block = Block(
            language=fence["language"].strip(),
            text=fence["text"],
            line=text.count("\n", 0, fence.start()) + 1,
        )
        if mark := MARK_BEFORE.search(before):
            marks += 1
            block.mark, block.reason = mark.groups()
        is_output = previous is not None and not before.strip() and block.language in OUTPUT
        if is_output and previous.output is None:
            previous.output = block
        elif block.language in RUN or block.mark == NOT_RUN:
            found.append(block)
        elif block.language not in PICTURE:
            raise PageError(
                f"line {block.line}: a block of '{block.language}' is neither run nor the output "
                f"of the one directly above it, and not marked <!-- {NOT_RUN}: why -->"
            )
        check_mark(block)
        previous = block if block.is_run else None
    if len(MARK.findall(text)) != marks:
        raise PageError("a mark stands somewhere else than directly before a block")
    if len(ANY_FENCE.findall(text)) != fences:
        raise PageError("a fence is indented, of tildes, or not closed")
    return found


def check_mark(block):
    if block.mark == NOT_RUN and len(block.reason) < REASON_MIN:
        raise PageError(f"line {block.line}: say why it is not run")
    if block.mark in (FAILS, ENDLESS, GOES_ON) and block.language != "sh":
        raise PageError(f"line {block.line}: only a block of sh can be marked '{block.mark}'")
