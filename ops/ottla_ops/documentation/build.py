"""Builds the site: `python -m ottla_ops.documentation.build`, which `make docs` calls.

The references are made from the code that is imported, so nothing of the site is kept in the
repository but `docs/`. A link that leads nowhere fails the build. Nothing comes from the network.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ottla_ops.documentation.pages import BrokenLinkError, collect
from ottla_ops.documentation.references import REFERENCES

CONFIG: Final = "zensical.toml"
SOURCE: Final = "source"
HTML: Final = "html"
"""Directories of the output; the configuration file names them too."""


def write_source(root: Path, output: Path) -> None:
    """Write what zensical builds from, in place of what was there.

    Raises:
        BrokenLinkError: a page links to what is not there.
    """
    files = collect(root, {path: render() for path, render in REFERENCES.items()})
    shutil.rmtree(output / SOURCE, ignore_errors=True)
    for path, content in files.items():
        file = output / SOURCE / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    shutil.move(output / SOURCE / CONFIG, output / CONFIG)


def build(output: Path) -> int:
    """Build the HTML; zensical's exit code, which is not 0 where a link leads nowhere."""
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    return subprocess.run(  # noqa: S603 - our own words
        [*command, "--config-file", str(output / CONFIG)], check=False
    ).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the source and build it; the exit code."""
    parser = argparse.ArgumentParser(prog="ottla_ops.documentation.build", description=__doc__)
    parser.add_argument("root", type=Path, help="directory of the repository")
    parser.add_argument("output", type=Path, help="gets source/ and html/")
    chosen = parser.parse_args(arguments)
    try:
        write_source(chosen.root, chosen.output)
    except BrokenLinkError as error:
        print(error, file=sys.stderr)
        return 1
    return build(chosen.output)


if __name__ == "__main__":
    sys.exit(main())
