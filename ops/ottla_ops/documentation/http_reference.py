"""The reference of the HTTP API, made from the document that brokers serve."""

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any, Final

from ottla_broker.http.openapi import openapi_document
from ottla_broker.http.operation_tables import OPERATIONS
from ottla_ops.documentation.markdown import code, paragraph, table

HEADER: Final = """\
# HTTP API

Every broker serves all of this, and describes it for programs at `/v1/openapi.json` and with
schemas and an example for curl each at `/docs`. What each [code](errors.md) means is a page of
its own.

"""


def http_reference() -> str:
    """The reference, as Markdown."""
    document = openapi_document(OPERATIONS, version=version("ottla"))
    sections = [HEADER]
    for tag in document["tags"]:
        name = tag["name"]
        sections.append(f"## {name[:1].upper()}{name[1:]}\n\n")
        sections += [
            _section(method, path, operation)
            for path, method, operation in operations(document)
            if name in operation["tags"]
        ]
    return "".join(sections)


def operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Path, method and operation of all that is described."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def _section(method: str, path: str, operation: Mapping[str, Any]) -> str:
    parts = [f"### {method.upper()} {path}\n\n{operation['summary']}.\n"]
    if operation.get("description"):
        parts.append(f"\n{paragraph(operation['description'])}\n")
    if parameters := operation.get("parameters"):
        parts.append("\n" + table(("Parameter", "In", "Meaning"), map(_parameter, parameters)))
    if body := operation.get("requestBody"):
        parts.append(f"\nTakes {', '.join(map(code, body['content']))}.\n")
    answers = ((status, _answer(reply)) for status, reply in operation["responses"].items())
    parts.append("\n" + table(("Status", "Answer"), answers))
    return "".join(parts) + "\n"


def _parameter(parameter: Mapping[str, Any]) -> tuple[str, str, str]:
    schema = parameter["schema"]
    limits = ""
    if "enum" in schema:
        limits = f" One of {', '.join(map(code, schema['enum']))}."
    elif "minimum" in schema and "maximum" in schema:
        limits = f" {schema['minimum']} to {schema['maximum']}."
    if "default" in schema:
        limits += f" By default {code(schema['default'])}."
    return code(parameter["name"]), parameter["in"], parameter["description"] + limits


def _answer(reply: Mapping[str, Any]) -> str:
    media_types = ", ".join(map(code, reply.get("content", {})))
    return f"{reply['description']} {media_types}"
