"""Who refuses what a client sent names it in the document of the error, not in its words alone."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HTTP = ROOT / "broker" / "ottla_broker" / "http"
SERVICES = ROOT / "broker" / "ottla_broker" / "services"
CLUSTER = ROOT / "cluster" / "ottla_cluster"

ABOUT_NO_FIELD = {HTTP / "aiohttp_connection.py", HTTP / "problems.py"}
"""What is wrong is the request as such."""

MODULES = [
    *sorted(set(HTTP.glob("*.py")) - ABOUT_NO_FIELD),
    *(SERVICES / f"{name}.py" for name in ("features", "groups", "quorum", "reassignments")),
    *(
        SERVICES / f"{name}.py"
        for name in ("produce", "restores", "topics", "transactions", "trims")
    ),
    *(
        CLUSTER / "controller" / f"{name}_handlers.py"
        for name in (
            "feature",
            "reassignment",
            "restore",
            "throttle",
            "topic",
            "unclean_election",
        )
    ),
    *sorted((CLUSTER / "groups").glob("*.py")),
    ROOT / "clients" / "ottla_protocol" / "models_trims.py",
]
NAMES = {"field", "parameter", "path", "index"}
REFUSALS = {"InvalidRequestError", "InvalidTopicError", "validate_topic_name", "refuse_internal"}
"""What makes an error, or raises one and is told for whom."""


def refusals(path):
    """Line and keywords of each refusal that the module makes, or has others make."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in REFUSALS:
            yield node.lineno, {each.arg for each in node.keywords}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_refusal_names_what_is_wrong(path):
    nameless = [line for line, keywords in refusals(path) if not keywords & NAMES]
    assert nameless == []


def test_there_are_such_refusals():
    assert sum(len(list(refusals(path))) for path in MODULES) > 30
