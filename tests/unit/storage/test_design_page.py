"""DESIGN.md names every module of the storage, and none that is not there."""

import re
from pathlib import Path

STORAGE = Path(__file__).parents[3] / "broker" / "ottla_broker" / "storage"
TREE = (STORAGE / "DESIGN.md").read_text().split("```")[1]


def modules(folder):
    return {path.stem for path in folder.glob("*.py")} - {"__init__"}


def test_the_tree_has_each_module_once():
    assert sorted(re.findall(r"^ *(\w+)\.py ", TREE, re.MULTILINE)) == sorted(modules(STORAGE))


def test_the_tree_names_each_rule():
    rules = TREE.partition("policy/")[2]
    assert {name for name in re.findall(r"\w+", rules) if name in modules(STORAGE / "policy")} == (
        modules(STORAGE / "policy")
    )
