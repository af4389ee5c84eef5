"""Pages that need a machine to themselves: they start a cluster, kill its brokers, or change it.

`page_machine` tells what such a machine is, and what stands in for what. Where none can be made
these are skipped.
"""

import re

import pytest

from tests.cluster.page_blocks import GOES_ON, Block, blocks_of
from tests.cluster.page_machine import CTRL_C, SETTINGS, Machine, lacks
from tests.cluster.page_run import ROOT, TIMEOUT_S, run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(TIMEOUT_S + 60)]

STARTED = ROOT / "README.md", ROOT / "docs" / "tutorial.md"
HOUR = ROOT / "docs" / "newcomers-hour.md"
RUNNING = ROOT / "docs" / "operations" / "running.md"
MAINTENANCE = ROOT / "docs" / "operations" / "maintenance.md"
PAGES = (*STARTED, HOUR, RUNNING, MAINTENANCE)

IN_CLONE = ".venv/bin/"
ADDRESSES = {number: f"10.0.0.{number}" for number in range(1, 6)}
"""What operations call their hosts: three brokers, the fourth, and a controller."""
BOOTSTRAP = ",".join(f"http://{ADDRESSES[number]}:7101" for number in (1, 2, 3, 4))
OF_ONE_BROKER = ("OTTLA_NODE_ID", "OTTLA_LISTEN", "OTTLA_DATA_DIR")

USE = """\
ottla topic create flights --partitions 2
seq 100 | ottla produce flights
poll() {
    curl -s -X POST http://10.0.0.1:7101/v1/groups/billing/poll \\
      -d '{"topics": ["flights"], "member_id": "laptop"'"$1}"
}
ACK=$(poll ', "max_wait_ms": 20000' | sed 's/.*"ack":\\(.*\\)}$/\\1/')
poll ', "ack": '"$ACK"
curl -s -X DELETE http://10.0.0.1:7101/v1/groups/billing/members/laptop
"""
"""A topic, and a group that has committed, for which maintenance.md has these names."""

STARTED_AGAIN = """\
until grep -q 'restart 1 ' "$HOME/terminal"; do sleep 0.1; done
until curl -s http://127.0.0.1:7102/readyz; do sleep 0.1; done
"""
"""What pages say of the supervisor after a kill of broker 2."""


@pytest.fixture(scope="module", autouse=True)
def needs_machines():
    """Tried only where a test of these runs: it takes a moment."""
    if lacks():
        pytest.skip(f"needs {', '.join(lacks())}")


@pytest.mark.parametrize("page", STARTED, ids=[page.name for page in STARTED])
def test_a_page_that_starts_a_cluster_and_kills_a_broker(page, tmp_path):
    blocks = runnable(page)
    assert blocks[0].mark == GOES_ON
    run([*blocks, hidden(STARTED_AGAIN), hidden(CTRL_C)], Machine(), tmp_path)


def test_a_newcomers_hour_and_a_broker_that_is_replaced_after_it(tmp_path):
    """The replacement is told of in maintenance.md, for the machine of `make start`."""
    started, replaced = [block for block in runnable(MAINTENANCE) if IN_CLONE in block.text]
    shown = hidden(until_shown("7104.*active", by=".venv/bin/ottla cluster info"))
    run([*runnable(HOUR), started, shown, replaced], Machine(), tmp_path)


def test_operations(tmp_path):
    """running.md and then maintenance.md, on a cluster of systemd's units.

    Five addresses of one machine stand for five hosts, with the settings that running.md shows.
    Where that starts the first broker, two others start likewise; what maintenance.md has names
    for is there before; and a broker stands still for as long as the copying to it is looked at
    and called off, since there is next to nothing to copy.
    """
    running = [settings_of_brokers(), *runnable(RUNNING)]
    running.insert(running.index(with_words(running, "--bootstrap")) + 1, hidden(CTRL_C))
    first = with_words(running, "systemctl enable")
    first.text += "systemctl enable --now ottla@2 ottla@3\n"
    first.text += until_shown("3 of 3 active", by="ottla cluster health")
    changing = [block for block in runnable(MAINTENANCE) if IN_CLONE not in block.text]
    fourth, moved, fifth = (
        with_words(changing, words) for words in ("ottla@4", "reassign flights", "ottla@5")
    )
    fourth.text += until_shown(f"{ADDRESSES[4]}.*active", by="ottla cluster info")
    fifth.text += until_shown("^5 .*observer", by="ottla cluster quorum")
    copying, elect, rest = moved.text.partition("ottla cluster elect")
    process = "$(pgrep -f 'ottla_broker --node-id 4')"
    moved.text = (
        f"kill -STOP {process}\n{copying}kill -CONT {process}\n"
        f"{until_shown('no reassignment', by='ottla cluster reassign')}{elect}{rest}"
    )
    machine = Machine(ADDRESSES.values(), bootstrap=BOOTSTRAP, in_clone=True)
    printed = "\n".join(run([*running, hidden(USE), *changing], machine, tmp_path))
    for words in (
        r"^flights +1 +called off",
        r"^broker 3 is drained",
        r"^5 +(leader|voter) ",
        r"^TOPIC +PARTITION +BEFORE +AFTER\nflights ",
    ):
        assert re.search(words, printed, re.MULTILINE), printed


def runnable(page):
    return [block for block in blocks_of(page.read_text()) if block.is_run]


def hidden(text):
    """What no page shows: what a reader's eyes and hands do between two blocks."""
    return Block(language="sh", text=text, line=0)


def with_words(blocks, words):
    """The only block in which these stand."""
    [found] = [block for block in blocks if words in block.text]
    return found


def until_shown(pattern, *, by):
    """A reader looks until it is there."""
    return f"until {by} 2>&1 | grep -q '{pattern}'; do sleep 0.2; done\n"


def settings_of_brokers():
    """Puts what running.md says that each broker needs to where the unit looks for it."""
    shown = re.search(r"^```text\n(OTTLA_NODE_ID=1\n[^`]*)^```$", RUNNING.read_text(), re.MULTILINE)
    lines = shown[1].replace("SECRET=...", "SECRET=of-these-hosts").splitlines()
    own = [line for line in lines if line.startswith(OF_ONE_BROKER)]
    assert len(own) == len(OF_ONE_BROKER)
    every = [line for line in lines if line not in own]
    every += [f"{name}={text}" for name, text in SETTINGS.items()]
    files = {"ottla": every} | {
        number: [re.sub(r"(=|10\.0\.0\.|/)1(?=:|$)", rf"\g<1>{number}", line) for line in own]
        for number in (1, 2, 3)
    }
    return hidden(
        "".join(
            "\n".join((f"cat > /etc/ottla/{name}.env <<'END'", *texts, "END", ""))
            for name, texts in files.items()
        )
    )
