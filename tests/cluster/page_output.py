"""Whether a command printed what its page shows.

What a page shows is printed in one piece; other documents or lines may come before and after it.
`...` stands for what differs or does not matter: a part of a string or line, a whole line for any
number of lines, and in JSON a value, further members of an object or further items of a list.
"""

import json
import re

VARYING = frozenset(
    {
        "ack",
        "broker_epoch",
        "controller",
        "coordinator",
        "cursor",
        "generation",
        "isr",
        "leader",
        "leader_epoch",
        "next_cursor",
        "producer_epoch",
        "producer_id",
        "replicas",
        "timestamp",
        "topic_id",
        "transaction",
    }
)
"""Members of JSON objects that differ from run to run: only their JSON type is compared."""

REST = "..."
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\.\.\.|[{}\[\]:]|[^"{}\[\]:.]+|.', re.DOTALL)


def difference(shown, printed, language):
    """What is wrong, in one line; None if that is what was printed."""
    if language == "json":
        return json_difference(documents(with_rests(shown)), documents(printed))
    return text_difference(lines(shown), lines(printed))


def documents(text):
    """JSON values that follow one another."""
    decoder, found, rest = json.JSONDecoder(), [], text.strip()
    while rest:
        document, end = decoder.raw_decode(rest)
        found.append(document)
        rest = rest[end:].strip()
    return found


def with_rests(text):
    """The same in JSON: a bare `...` as a string, or as a member."""
    written, inside, before = [], [], ""
    for token in TOKEN.findall(text):
        if token in ("{", "["):
            inside.append(token)
        elif token in ("}", "]"):
            inside.pop()
        if token == REST:
            is_member = inside and inside[-1] == "{" and before != ":"
            token = f'"{REST}": "{REST}"' if is_member else f'"{REST}"'
        written.append(token)
        before = token if token.strip() else before
    return "".join(written)


def json_difference(shown, printed):
    if len(printed) < len(shown):
        return f"{len(shown)} JSON documents are shown, {len(printed)} were printed"
    wrong = None
    for start in range(len(printed) - len(shown) + 1):
        wrong = value_difference(shown, printed[start : start + len(shown)], "$")
        if wrong is None:
            return None
    return wrong


def value_difference(shown, printed, path):
    if shown == REST:
        return None
    if isinstance(shown, dict) and isinstance(printed, dict):
        return object_difference(shown, printed, path)
    if isinstance(shown, list) and isinstance(printed, list):
        return list_difference(shown, printed, path)
    if isinstance(shown, str) and isinstance(printed, str) and pattern(shown).fullmatch(printed):
        return None
    if type(shown) is type(printed) and shown == printed:
        return None
    return f"{path} is {printed!r}, not {shown!r}"


def object_difference(shown, printed, path):
    names = shown.keys() - {REST}
    if missing := names - printed.keys():
        return f"{path} has no {sorted(missing)}"
    if REST not in shown and (more := printed.keys() - names):
        return f"{path} has {sorted(more)}, which are not shown"
    for name in names:
        expected, actual = shown[name], printed[name]
        if name in VARYING:
            if expected != REST and type(expected) is not type(actual):
                return f"{path}.{name} is {actual!r}, which is not like {expected!r}"
        elif wrong := value_difference(expected, actual, f"{path}.{name}"):
            return wrong
    return None


def list_difference(shown, printed, path):
    if shown and shown[-1] == REST:
        shown = shown[:-1]
        printed = printed[: len(shown)]
    if len(shown) != len(printed):
        return f"{path} has {len(printed)} items, not {len(shown)}"
    for position, (expected, actual) in enumerate(zip(shown, printed, strict=True)):
        if wrong := value_difference(expected, actual, f"{path}[{position}]"):
            return wrong
    return None


def lines(text):
    """The lines that are not blank, with one space for each gap."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def text_difference(shown, printed):
    wanted = "".join(
        r"(?:.*\n)*" if line == REST else pattern(line).pattern + r"\n" for line in shown
    )
    if re.search("^" + wanted, "".join(line + "\n" for line in printed), re.MULTILINE):
        return None
    return "printed was:\n" + "\n".join(printed)


def pattern(text):
    return re.compile(".*".join(map(re.escape, text.split(REST))))
