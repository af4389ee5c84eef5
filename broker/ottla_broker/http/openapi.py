"""The OpenAPI 3.1 document of the HTTP API, made from the tables of operations.

Pure: operations in, a document out. Schemas of models are msgspec's, with names that generators of
clients can use.
"""

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from ottla_broker.http.operations import (
    Content,
    Link,
    Operation,
    Parameter,
    Reply,
    documented_path,
)
from ottla_broker.http.post import RETRY_AFTER_STATUSES
from ottla_protocol import routes
from ottla_protocol.errors import OttlaError, Outcome

OPENAPI_VERSION = "3.1.0"

_SCHEMAS = "#/components/schemas/"

PROBLEM_SCHEMA: Mapping[str, Any] = {
    "title": "Problem",
    "description": (
        "An error (RFC 9457). `code` is for programs, and Kafka's name where Kafka has one; "
        "`retriable` tells whether the same request may succeed later. Errors of writes say what "
        "became of them: `not_applied`, or `unknown`. Further members tell what is needed to go "
        "on, as the current leader or the bounds of a partition."
    ),
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "retriable": {"type": "boolean"},
        "outcome": {"enum": [outcome.value for outcome in Outcome]},
        "request_id": {"type": "string"},
    },
    "required": ["type", "title", "status", "detail", "code", "retriable"],
}

EVERY_ANSWERS_HEADERS: Mapping[str, str] = {
    routes.HEADER_REQUEST_ID: "The request's own id, as it was sent or as the broker made it; the "
    "logs of every broker that served it have it.",
    routes.HEADER_SERVED_BY: "Node id of the broker that did the work.",
}


def openapi_document(operations: Sequence[Operation], *, version: str) -> dict[str, Any]:
    """The whole document.

    Args:
        operations: everything that is to be described.
        version: of Ottla.
    """
    schemas = _Schemas(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = paths.setdefault(documented_path(operation.path), {})
        path[operation.method.lower()] = _operation(operation, schemas)
    return {
        "openapi": OPENAPI_VERSION,
        "info": {
            "title": "Ottla",
            "version": version,
            "summary": "A replicated, partitioned commit log that speaks HTTP.",
            "description": (
                "Any broker takes any request and forwards it where it belongs. Errors are "
                f"`{routes.PROBLEM_JSON}`. Query parameters and fields of requests that are not "
                "described are refused; answers may gain fields."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "The broker that served this document."}],
        "tags": [{"name": tag} for tag in dict.fromkeys(each.tag for each in operations)],
        "paths": paths,
        "components": {"schemas": schemas.components},
    }


class _Schemas:
    """The schemas of all models that operations name."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        models = {
            id(content.model): content.model
            for operation in operations
            for content in _contents(operation)
            if not isinstance(content.model, Mapping)
        }
        found, components = msgspec.json.schema_components(
            list(models.values()), ref_template=_SCHEMAS + "{name}"
        )
        self._by_model = dict(zip(models, map(_published, found), strict=True))
        self.components: dict[str, Any] = {"Problem": PROBLEM_SCHEMA} | {
            _public_name(name): _published(schema) for name, schema in sorted(components.items())
        }

    def of(self, content: Content) -> dict[str, Any]:
        """The schema of a body."""
        if isinstance(content.model, Mapping):
            return {**content.model, **content.also}
        return {**self._by_model[id(content.model)], **content.also}


def _contents(operation: Operation) -> Iterable[Content]:
    yield from operation.request
    for reply in operation.replies:
        yield from reply.contents


def _public_name(name: str) -> str:
    """A name that msgspec gave to a model, as one word.

    `_Line` loses its underscore, `List__Line_` and `List[_Line]` become `ListOfLine`, and
    `package.models_groups.Line`, which is told so where there is another `Line`, `GroupsLine`.
    """
    module, _, name = name.rpartition(".")
    outer, is_generic, inner = re.sub(r"[\[\]]", "_", name).strip("_").partition("_")
    if is_generic:
        outer += f"Of{inner.strip('_')}"
    words = module.rpartition(".")[2].removeprefix("models_").split("_")
    return "".join(word.capitalize() for word in words) + outer


def _published(schema: Any) -> Any:
    """A schema of msgspec's, with public names and without the indents of docstrings."""
    if isinstance(schema, list):
        return [_published(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    published = {name: _published(value) for name, value in schema.items()}
    if isinstance(schema.get("$ref"), str):
        published["$ref"] = _SCHEMAS + _public_name(schema["$ref"].removeprefix(_SCHEMAS))
    if isinstance(schema.get("title"), str):
        published["title"] = _public_name(schema["title"])
    if isinstance(schema.get("description"), str):
        published["description"] = inspect.cleandoc(schema["description"])
    return published


def _operation(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.operation_id,
        "tags": [operation.tag],
        "summary": operation.summary,
    }
    if operation.description:
        described["description"] = operation.description
    if operation.parameters:
        described["parameters"] = [_parameter(each) for each in operation.parameters]
    if operation.request:
        described["requestBody"] = {
            "required": operation.is_body_required,
            "content": _content(operation.request, schemas),
        }
    described["responses"] = _responses(operation, schemas)
    return described


def _parameter(parameter: Parameter) -> dict[str, Any]:
    described = {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "description": parameter.description,
        "schema": dict(parameter.schema),
    }
    return described if parameter.example is None else described | {"example": parameter.example}


def _content(contents: Iterable[Content], schemas: _Schemas) -> dict[str, Any]:
    described = {}
    for content in contents:
        entry: dict[str, Any] = {"schema": schemas.of(content)}
        if content.example is not None:
            entry["example"] = content.example
        described[content.media_type] = entry
    return described


def _responses(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    responses = {str(reply.status): _reply(reply, schemas) for reply in operation.replies}
    by_status: dict[int, list[type[OttlaError]]] = {}
    for error in operation.all_problems():
        by_status.setdefault(error.status, []).append(error)
    for status, errors in by_status.items():
        problem = _problem(status, errors)
        both = responses.get(str(status))
        if both is None:
            responses[str(status)] = problem
        else:
            both["description"] += " Or: " + problem["description"]
            both["content"] = both.get("content", {}) | problem["content"]
            both["headers"] = both["headers"] | problem["headers"]
    return dict(sorted(responses.items()))


def _reply(reply: Reply, schemas: _Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {
        "description": reply.description,
        "headers": _headers({**EVERY_ANSWERS_HEADERS, **reply.headers}),
    }
    if reply.contents:
        described["content"] = _content(reply.contents, schemas)
    if reply.links:
        described["links"] = {each.operation_id: _link(each) for each in reply.links}
    return described


def _link(link: Link) -> dict[str, Any]:
    described: dict[str, Any] = {"operationId": link.operation_id}
    if link.parameters:
        described["parameters"] = dict(link.parameters)
    if link.body:
        described["requestBody"] = dict(link.body)
    return described


def _problem(status: int, errors: Sequence[type[OttlaError]]) -> dict[str, Any]:
    codes = list(dict.fromkeys(error.code for error in errors))
    headers = {**EVERY_ANSWERS_HEADERS}
    if status in RETRY_AFTER_STATUSES:
        headers["Retry-After"] = "Seconds after which to try again."
    return {
        "description": f"{HTTPStatus(status).phrase}: {', '.join(codes)}.",
        "headers": _headers(headers),
        "content": {
            routes.PROBLEM_JSON: {
                "schema": {
                    "allOf": [
                        {"$ref": f"{_SCHEMAS}Problem"},
                        {"properties": {"code": {"enum": codes}, "status": {"const": status}}},
                    ]
                }
            }
        },
    }


def _headers(headers: Mapping[str, str]) -> dict[str, Any]:
    return {
        name: {"description": description, "schema": {"type": "string"}}
        for name, description in headers.items()
    }
