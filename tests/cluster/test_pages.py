"""Every page of documentation, run as a reader would paste it.

Each page below docs/ is a test of its own, with topics of its own, but for README and others that
need more than a shared cluster: test_pages_on_machines. CONTRIBUTING.md says how to write one.
"""

import re
import uuid
from collections import Counter

import pytest

from ottla_protocol import routes
from tests.cluster.group_member import GroupMember
from tests.cluster.page_blocks import NOT_RUN, blocks_of
from tests.cluster.page_run import ROOT, TIMEOUT_S, BrokersAtHand, run
from tests.cluster.test_pages_on_machines import PAGES as ON_MACHINES
from tests.cluster.transactional_client import TransactionalClient

pytestmark = pytest.mark.cluster

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOT_RUN_MAX = 2
"""One that is not run may be wrong without anybody knowing: containers and Kubernetes."""


def name(page):
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def cluster(shared):
    """The first group, and the first transaction, make a topic of 16 partitions each.

    That takes long on a busy machine; and what a page makes is deleted behind it.
    """
    # A worker may come back to this module, and set it up again.
    first = f"page-first-group-{uuid.uuid4().hex}"
    shared.create_topic(first, partitions=1)
    GroupMember(shared, first, [first]).leave()
    TransactionalClient(shared, first)
    return shared


@pytest.fixture
def new_topics(cluster):
    """What the page has created goes with it: others may look at all topics."""
    before = topics(cluster)
    yield
    # The brokers' own, which nobody may delete, may be heard of late by the one that is asked.
    for topic in {name for name in topics(cluster) - before if not name.startswith("__")}:
        cluster.http.delete(f"{cluster.any_url()}{routes.TOPICS}/{topic}").expect(204)


def topics(cluster):
    document = cluster.http.get(cluster.any_url() + routes.TOPICS).expect(200).document
    return {topic["name"] for topic in document["topics"]}


@pytest.mark.timeout(TIMEOUT_S + 60)
@pytest.mark.usefixtures("new_topics")
@pytest.mark.parametrize("page", [page for page in PAGES if page not in ON_MACHINES], ids=name)
def test_page(page, cluster, tmp_path):
    blocks = [block for block in blocks_of(page.read_text()) if block.is_run]
    if blocks:
        run(blocks, BrokersAtHand(cluster), tmp_path)


def test_all_blocks_are_run_but_very_few():
    blocks = [block for page in PAGES for block in blocks_of(page.read_text())]
    marked = [block for block in blocks if block.mark == NOT_RUN]
    assert len(marked) <= NOT_RUN_MAX, [block.reason for block in marked]


def test_no_two_pages_create_the_same_topic():
    created = Counter(
        topic
        for page in PAGES
        for topic in {
            topic
            for block in blocks_of(page.read_text())
            if block.is_run
            for topic in re.findall(
                r"""topics (?:-[^\n]*)?-d '\{"name": "([^"]+)"|topic create ([^ \n-][^ \n]*)"""
                r"""|create_topic\("([^"]+)\"""",
                block.text,
            )
            for topic in topic
            if topic
        }
    )
    assert created, "no page creates a topic"
    assert {topic: count for topic, count in created.items() if count > 1} == {}
