"""Every page of documentation, run as a reader would paste it.

README and each page below docs/ is a test of its own, with topics of its own. CONTRIBUTING.md says
how to write one.
"""

import re
import uuid
from collections import Counter
from pathlib import Path

import pytest

from ottla_protocol import routes
from tests.cluster.group_member import GroupMember
from tests.cluster.page_blocks import NOT_RUN, blocks_of
from tests.cluster.page_run import TIMEOUT_S, run
from tests.cluster.transactional_client import TransactionalClient

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OF_ITS_OWN = ROOT / "docs" / "newcomers-hour.md"
"""It kills a broker, so test_newcomers_hour runs it."""
NOT_RUN_SHARE_MAX = 1 / 3
"""Of all blocks; one that is not run may be wrong without anybody knowing."""


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
    for topic in topics(cluster) - before:
        cluster.http.delete(f"{cluster.any_url()}{routes.TOPICS}/{topic}").expect(204)


def topics(cluster):
    document = cluster.http.get(cluster.any_url() + routes.TOPICS).expect(200).document
    return {topic["name"] for topic in document["topics"]}


@pytest.mark.timeout(TIMEOUT_S + 60)
@pytest.mark.usefixtures("new_topics")
@pytest.mark.parametrize("page", [page for page in PAGES if page != OF_ITS_OWN], ids=name)
def test_page(page, cluster, tmp_path):
    blocks = [block for block in blocks_of(page.read_text()) if block.is_run]
    if blocks:
        run(blocks, cluster, tmp_path)


def test_most_blocks_are_run():
    blocks = [block for page in PAGES for block in blocks_of(page.read_text())]
    marked = [block for block in blocks if block.mark == NOT_RUN]
    assert len(marked) <= NOT_RUN_SHARE_MAX * len(blocks), [block.reason for block in marked]


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
