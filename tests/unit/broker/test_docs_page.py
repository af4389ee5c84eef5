"""The page for people: all of the document, nothing from elsewhere, and no markup of others."""

import shlex
from html.parser import HTMLParser

import pytest

from ottla_broker.http.description import is_known
from ottla_broker.http.docs_page import CONTENT_SECURITY_POLICY, curl, docs_page
from ottla_broker.http.openapi import openapi_document
from ottla_broker.http.operation_tables import OPERATIONS
from ottla_broker.http.operations import Content, Operation, Parameter, Reply, ok
from ottla_protocol import routes

URL = "http://127.0.0.1:7101"
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Every element's attributes; fails where elements do not nest."""

    def __init__(self, text):
        super().__init__()
        self.examples = []
        self.open = []
        self.elements = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "pre":
            self.examples.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if "pre" in self.open:
            self.examples[-1] += data


@pytest.fixture(scope="module")
def document():
    return openapi_document(OPERATIONS, version="0")


@pytest.fixture(scope="module")
def page(document):
    return Page(docs_page(document, URL))


def test_every_operation_and_schema_has_a_place(document, page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {each.operation_id for each in OPERATIONS} <= set(ids)
    assert {f"schema-{name}" for name in document["components"]["schemas"]} <= set(ids)


def test_links_lead_to_places_of_the_page_or_to_the_broker(page):
    ids = {attributes.get("id") for _, attributes in page.elements}
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    for link in links:
        assert link == routes.OPENAPI or link.removeprefix("#") in ids, link


def test_nothing_comes_from_elsewhere(page):
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.elements}
    assert not [attributes for _, attributes in page.elements if "src" in attributes]
    assert "url(" not in page.text
    assert "script-src" not in CONTENT_SECURITY_POLICY
    assert "default-src 'none'" in CONTENT_SECURITY_POLICY


def test_what_a_document_says_is_no_markup():
    evil = '<script>alert("1")</script>'
    operation = Operation(
        "GET",
        f"/v1/{evil}",
        evil,
        evil,
        evil,
        (Reply(200, evil, (Content({"enum": [evil], "default": evil}, evil),)),),
        description=f"`{evil}` {evil}",
        parameters=(Parameter(evil, "query", evil, {"type": evil, "default": evil}, evil),),
        request=(Content({"type": "object"}, example={evil: evil}),),
    )
    text = docs_page(openapi_document([operation], version=evil), URL)
    assert "<script" not in text
    Page(text)


def test_curl_fills_in_the_examples_and_quotes_them():
    operation = Operation(
        "POST",
        "/v1/topics/{topic}/x",
        "x",
        "x",
        "x",
        ok({}),
        parameters=(
            Parameter("topic", "path", "", {}, "a b"),
            Parameter("offset", "query", "", {}, "1&2"),
            Parameter("other", "query", "", {}),
            Parameter("Idempotency-Key", "header", "", {}, "it's"),
        ),
        request=(Content({}, example={"a": "it's"}),),
    )
    document = openapi_document([operation], version="0")
    [[path, methods]] = document["paths"].items()
    words = shlex.split(curl(path, "post", methods["post"], URL))
    assert words == [
        "curl", "-s", "-H", "Idempotency-Key: it's", "-X", "POST",
        f"{URL}/v1/topics/a%20b/x?offset=1%262", "-d", '{"a": "it\'s"}',
    ]  # fmt: skip


def test_the_lines_to_read_leave_nothing_out(document):
    """What somebody has just written is there, whatever it is."""
    for path in (routes.TOPIC_RECORDS, routes.PARTITION_RECORDS):
        line = curl(path, "get", document["paths"][path]["get"], URL)
        assert line.rstrip("'").endswith("/records?offset=earliest")


def test_every_operation_has_its_curl_line(page):
    assert len(page.examples) == len(OPERATIONS)
    for line in page.examples:
        url = next(word for word in shlex.split(line) if word.startswith(URL))
        # Every part of the path is filled in.
        assert "{" not in url, line


@pytest.mark.parametrize(
    ("sent", "known"),
    [
        (None, False),
        ('"a"', True),
        ('W/"a"', True),
        ('"b", "a"', True),
        ("*", True),
        ('"b"', False),
        ("a", False),
        ("", False),
    ],
)
def test_whether_a_client_has_it_already(sent, known):
    assert is_known(sent, '"a"') is known
