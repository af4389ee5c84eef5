"""Every route is described, everything described is a route, and the document is sound."""

import json
import re
from types import SimpleNamespace

import pytest

from ottla_broker.http.admission import admit_to_broker
from ottla_broker.http.application import build_application
from ottla_broker.http.openapi import openapi_document
from ottla_broker.http.operation_tables import OPERATIONS
from ottla_broker.http.operation_tables.links import LINKS
from ottla_broker.http.operations import documented_path
from ottla_broker.http.post_routes import POST_ROUTES
from ottla_protocol import routes

DESCRIBED = {(each.method, documented_path(each.path)) for each in OPERATIONS}
PUBLIC_POSTS = [each for each in POST_ROUTES if not each.path.startswith(routes.INTERNAL_PREFIX)]

each_operation = pytest.mark.parametrize(
    "operation", OPERATIONS, ids=lambda operation: operation.operation_id
)


@pytest.fixture(scope="module")
def document():
    return openapi_document(OPERATIONS, version="0")


def test_every_route_of_the_application_is_described_and_the_other_way_round():
    application = build_application(
        SimpleNamespace(settings=SimpleNamespace(url="http://127.0.0.1:7101"))
    )
    served = {
        # A slash at the end is taken by the paths of REST proxies, and not worth telling.
        (route.method, documented_path(route.resource.canonical).rstrip("/") or "/")
        for route in application.router.routes()
        # HEAD comes with every GET.
        if route.method != "HEAD"
    }
    public = {route for route in served if not route[1].startswith(routes.INTERNAL_PREFIX)}
    assert public == DESCRIBED
    assert {route[1] for route in served - public} == {
        route.path for route in POST_ROUTES if route not in PUBLIC_POSTS
    }


def test_what_the_short_way_serves_is_described_and_the_other_way_round():
    described = {each.path: each for each in OPERATIONS if each.handler is None}
    assert set(described) == {route.path for route in PUBLIC_POSTS}
    assert {each.method for each in described.values()} == {"POST"}
    for route in PUBLIC_POSTS:
        assert described[route.path].broker_only == (route.admit is admit_to_broker), route.path


def test_names_are_unique(document):
    names = [each.operation_id for each in OPERATIONS]
    assert len(set(names)) == len(names)
    assert len(DESCRIBED) == len(OPERATIONS)


@each_operation
def test_the_parameters_of_a_path_are_those_that_are_described(operation):
    in_path = re.findall(r"{(\w+)}", documented_path(operation.path))
    described = [each.name for each in operation.parameters if each.place == "path"]
    assert described == in_path
    names = [(each.place, each.name) for each in operation.parameters]
    assert len(set(names)) == len(names)


def test_schemas_have_names_that_generators_of_clients_can_use(document):
    schemas = document["components"]["schemas"]
    assert [name for name in schemas if not name.isalnum()] == []
    assert schemas.keys() >= {
        "JsonRecordsOfJsonRecord",
        "GroupsCommittedOffset",
        "RestV2CommittedOffset",
    }
    titles = [schema["title"] for schema in schemas.values() if "title" in schema]
    assert [title for title in titles if not title.isalnum()] == []


def test_references_lead_somewhere(document):
    text = json.dumps(document)
    for name in re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', text):
        assert name in document["components"]["schemas"], name
    assert "$ref" in text
    assert '"_' not in text


@each_operation
def test_every_problem_is_told_with_its_status_and_code(document, operation):
    path = document["paths"][documented_path(operation.path)]
    responses = path[operation.method.lower()]["responses"]
    for error in operation.all_problems():
        content = responses[str(error.status)]["content"][routes.PROBLEM_JSON]
        assert error.code in content["schema"]["allOf"][1]["properties"]["code"]["enum"]


def test_a_pattern_of_a_path_is_not_published():
    assert documented_path(routes.METADATA_TREE_PATH) == "/v1/metadata/tree/{path}"
    assert documented_path("/a/{b}/c/{d}") == "/a/{b}/c/{d}"
    assert documented_path(routes.TOPICS) == routes.TOPICS


@each_operation
def test_a_body_has_an_example_unless_no_text_can_show_it(operation):
    if operation.request and operation.request[0].media_type != routes.MSGPACK:
        assert [each for each in operation.request if each.example is not None]


def test_what_has_links_is_an_operation():
    assert LINKS.keys() <= {each.operation_id for each in OPERATIONS}


def members_of(schema, document):
    """The names of what a schema's objects may have."""
    found = set(schema.get("properties", ()))
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        found |= members_of(document["components"]["schemas"][name], document)
    return found


@pytest.mark.parametrize("operation_id", LINKS)
def test_a_link_goes_from_what_is_told_to_what_is_taken(document, operation_id):
    by_id = {
        operation["operationId"]: operation
        for methods in document["paths"].values()
        for operation in methods.values()
    }
    [source] = [each for each in OPERATIONS if each.operation_id == operation_id]
    told = by_id[operation_id]["responses"][str(source.replies[0].status)]
    answered = [members_of(each["schema"], document) for each in told.get("content", {}).values()]
    asked = {each.name for each in source.parameters if each.place == "path"}
    assert len(told["links"]) == len(LINKS[operation_id])
    for name, link in told["links"].items():
        target = by_id[link["operationId"]]
        assert name == target["operationId"]
        places = (
            [(each["in"], each["name"]) for each in target["parameters"]]
            if ("parameters" in target)
            else []
        )
        for parameter in link.get("parameters", ()):
            place, dot, plain = parameter.partition(".")
            named = [each for each in places if each[1] == (plain if dot else parameter)]
            assert len(named) == 1, parameter
            assert not dot or named[0][0] == place
        bodies = target.get("requestBody", {}).get("content", {}).values()
        taken = [members_of(each["schema"], document) for each in bodies]
        for member in link.get("requestBody", ()):
            assert all(member in each for each in taken), member
        values = [*link.get("parameters", {}).values(), *link.get("requestBody", {}).values()]
        for value in values:
            where, _, member = str(value).partition("#/")
            if where == "$response.body":
                assert any(member.partition("/")[0] in each for each in answered), value
            elif where.startswith("$request.path."):
                assert where.removeprefix("$request.path.") in asked, value
        # Of what its path has all is told, or nothing: a transaction leads to any topic.
        in_path = {each[1] for each in places if each[0] == "path"}
        assert in_path & set(link.get("parameters", ())) in (in_path, set())
