"""The OpenAPI document as one page of HTML that needs nothing from elsewhere: no script, no CDN.

Pure: a document in, a text out. Everything that comes from the document is escaped.
"""

import base64
import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any
from urllib.parse import quote, urlencode

from ottla_protocol import routes

STYLE = """
:root { color-scheme: light dark; --line: light-dark(#ccc, #444);
  --soft: light-dark(#f4f4f4, #222); --link: light-dark(#0b57d0, #8ab4f8); }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 72rem;
  padding: 0 1rem 4rem; }
a { color: var(--link); }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
pre { background: var(--soft); border: 1px solid var(--line); overflow-x: auto; padding: .6rem; }
section { border-top: 1px solid var(--line); margin-top: 1.5rem; }
table { border-collapse: collapse; margin: .5rem 0; width: 100%; }
caption { font-weight: 600; padding: .3rem 0; text-align: start; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .75rem .25rem 0; text-align: start;
  vertical-align: top; }
td { overflow-wrap: anywhere; }
.method { font-weight: 700; }
.skip:not(:focus) { left: -999rem; position: absolute; }
"""

_STYLE_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""Nothing but the page's own style sheet."""

_SCHEMAS = "#/components/schemas/"


def docs_page(document: Mapping[str, Any], url: str) -> str:
    """The page.

    Args:
        document: as `openapi_document` makes it.
        url: of the broker, for the examples.
    """
    info = document["info"]
    operations = list(_operations(document))
    tags = [tag["name"] for tag in document["tags"]]
    body = [
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(info['title'])} HTTP API</title><style>{STYLE}</style></head><body>"
        f'<a class="skip" href="#main">To the operations</a>'
        f"<header><h1>{escape(info['title'])} HTTP API</h1>"
        f"<p>{escape(info['summary'])} Version {escape(info['version'])}. {_text(info)} "
        f'The same for programs: <a href="{routes.OPENAPI}">{routes.OPENAPI}</a> '
        f"(OpenAPI {escape(document['openapi'])}).</p></header>",
        _contents(tags, operations),
        '<main id="main">',
    ]
    for tag in tags:
        body.append(f'<section id="{_tag_id(tag)}"><h2>{escape(_title(tag))}</h2>')
        body += [
            _operation(path, method, operation, url)
            for path, method, operation in operations
            if tag in operation["tags"]
        ]
        body.append("</section>")
    body.append('<section id="schemas"><h2>Schemas</h2>')
    body += [_component(name, schema) for name, schema in _components(document)]
    body.append("</section></main></body></html>")
    return "\n".join(body)


def curl(path: str, method: str, operation: Mapping[str, Any], url: str) -> str:
    """A line for a shell that calls an operation with the document's examples."""
    query = {}
    words = ["curl -s"]
    for parameter in operation.get("parameters", ()):
        if "example" not in parameter:
            continue
        value = str(parameter["example"])
        if parameter["in"] == "path":
            path = path.replace("{" + parameter["name"] + "}", quote(value))
        elif parameter["in"] == "query":
            query[parameter["name"]] = value
        else:
            words.append(f"-H {shlex.quote(parameter['name'] + ': ' + value)}")
    # With a body curl would make it a POST.
    if method != "get" or "requestBody" in operation:
        words.append(f"-X {method.upper()}")
    target = url + path + (f"?{urlencode(query, safe=',')}" if query else "")
    words.append(shlex.quote(target))
    contents = operation.get("requestBody", {}).get("content", {})
    for media_type, content in _shown_first(contents):
        # curl's own default, which is taken for JSON.
        if media_type != routes.JSON:
            words.append(f"-H {shlex.quote('Content-Type: ' + media_type)}")
        words.append(_sent(content.get("example"), operation["operationId"]))
    return " ".join(words)


def _shown_first(contents: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """The body to show: the first one with an example, else the first one."""
    return sorted(contents.items(), key=lambda each: "example" not in each[1])[:1]


def _sent(example: Any, name: str) -> str:
    """The option for a body: what no text shows is in a file that is called after the operation."""
    if example is None:
        return f"--data-binary @{name}.bin"
    if isinstance(example, str):
        return f"--data-binary {shlex.quote(example)}"
    return f"-d {shlex.quote(json.dumps(example))}"


def _operations(document: Mapping[str, Any]) -> Iterable[tuple[str, str, Mapping[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def _tag_id(tag: str) -> str:
    return "tag-" + escape(tag.lower().replace(" ", "-"))


def _title(tag: str) -> str:
    return tag[:1].upper() + tag[1:]


def _components(document: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return sorted(document["components"]["schemas"].items())


def _contents(tags: list[str], operations: list[tuple[str, str, Mapping[str, Any]]]) -> str:
    lines = ['<nav aria-label="Operations"><h2>Operations</h2>']
    for tag in tags:
        lines.append(f'<h3><a href="#{_tag_id(tag)}">{escape(_title(tag))}</a></h3><ul>')
        lines += [
            f'<li><a href="#{escape(operation["operationId"])}">{escape(operation["summary"])}</a> '
            f"<code>{method.upper()} {escape(path)}</code></li>"
            for path, method, operation in operations
            if tag in operation["tags"]
        ]
        lines.append("</ul>")
    lines.append('<h3><a href="#schemas">Schemas</a></h3></nav>')
    return "\n".join(lines)


def _operation(path: str, method: str, operation: Mapping[str, Any], url: str) -> str:
    name = escape(operation["operationId"])
    parts = [
        f'<article id="{name}" aria-labelledby="{name}-title">'
        f'<h3 id="{name}-title">{escape(operation["summary"])}</h3>'
        f'<p><code><span class="method">{method.upper()}</span> {escape(path)}</code></p>'
        f"<p>{_text(operation)}</p>"
        f"<pre><code>{escape(curl(path, method, operation, url))}</code></pre>"
    ]
    if operation.get("parameters"):
        parts.append(_parameters(operation["parameters"]))
    if "requestBody" in operation:
        parts.append(_bodies(operation["requestBody"]["content"]))
    parts.append(_answers(operation["responses"]))
    parts.append("</article>")
    return "\n".join(parts)


def _parameters(parameters: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        (_code(each["name"]), each["in"], _type(each["schema"]), _text(each)) for each in parameters
    ]
    return _table("Parameters", ("Name", "In", "Value", "Meaning"), rows)


def _bodies(contents: Mapping[str, Any]) -> str:
    rows = [(_code(name), _type(content["schema"])) for name, content in contents.items()]
    return _table("Request body", ("Content-Type", "Schema"), rows)


def _answers(responses: Mapping[str, Any]) -> str:
    rows = [
        (
            status,
            _text(response) + _leads_to(response.get("links", {})),
            "<br>".join(
                f"{_code(name)} {_answer_type(name, content)}"
                for name, content in response.get("content", {}).items()
            ),
        )
        for status, response in responses.items()
    ]
    return _table("Answers", ("Status", "Meaning", "Body"), rows)


def _leads_to(links: Mapping[str, Any]) -> str:
    """The operations that go on with an answer."""
    if not links:
        return ""
    names = ", ".join(f'<a href="#{escape(name)}">{escape(name)}</a>' for name in links)
    return f" Leads to {names}."


def _answer_type(media_type: str, content: Mapping[str, Any]) -> str:
    # Its codes are in the answer's description.
    return "" if media_type == routes.PROBLEM_JSON else _type(content["schema"])


def _component(name: str, schema: Mapping[str, Any]) -> str:
    rows = [
        (
            _code(field),
            "yes" if field in schema.get("required", ()) else "",
            _type(value),
        )
        for field, value in schema.get("properties", {}).items()
    ]
    table = _table("Fields", ("Name", "Always there", "Value"), rows) if rows else ""
    return (
        f'<article id="schema-{escape(name)}"><h3>{escape(name)}</h3>'
        f"<p>{_text(schema)}</p>{table}</article>"
    )


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _table(caption: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for cells in rows)
    return (
        f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )


def _type(schema: Any) -> str:
    """A schema in a few words, with links to those that have a name."""
    if not isinstance(schema, Mapping):
        return "anything"
    if "$ref" in schema:
        name = escape(schema["$ref"].removeprefix(_SCHEMAS))
        return f'<a href="#schema-{name}">{name}</a>'
    if "enum" in schema:
        words = " | ".join(f"<code>{escape(str(word))}</code>" for word in schema["enum"])
        return words + _default(schema)
    if "const" in schema:
        return f"<code>{escape(json.dumps(schema['const']))}</code>"
    for several in ("anyOf", "oneOf"):
        if several in schema and "type" not in schema:
            return " or ".join(_type(each) for each in schema[several]) + _default(schema)
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}" + _default(schema)
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"object of {_type(schema['additionalProperties'])}" + _default(schema)
    return escape(str(schema.get("type", "anything"))) + _bounds(schema) + _default(schema)


def _bounds(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None and high is None:
        low, high = schema.get("minLength"), schema.get("maxLength")
        unit = " characters"
    else:
        unit = ""
    if schema.get("contentEncoding"):
        return f" ({escape(schema['contentEncoding'])})"
    if low is None and high is None:
        return ""
    return f" ({'' if low is None else low}…{'' if high is None else high}{unit})"


def _default(schema: Mapping[str, Any]) -> str:
    if schema.get("default") is None:
        return ""
    return f", default <code>{escape(json.dumps(schema['default']).strip(chr(34)))}</code>"


def _text(described: Mapping[str, Any]) -> str:
    """A description: paragraphs apart, and code between backticks."""
    pieces = escape(described.get("description", "")).split("`")
    text = "".join(
        f"<code>{piece}</code>" if index % 2 else piece for index, piece in enumerate(pieces)
    )
    return text.replace("\n\n", "<br><br>")
