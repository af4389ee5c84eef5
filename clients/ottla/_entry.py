"""The `ottla` command: runs the CLI where it is installed, else names the extra that has it."""

import importlib
import sys


def main() -> int:
    """Run the CLI; exit code 2 with one clear line when its packages are missing."""
    try:
        # By name, because the SDK must not depend on what lies above it. Commands import what
        # they need when they run, so a missing package may show only then.
        return int(importlib.import_module("ottla_ops.cli.main").run())
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.startswith("ottla"):
            raise
        print(
            f"ottla: the command line needs the server extra ({missing.name} is missing): "
            "pip install 'ottla[server]', in a clone '.[server]'",
            file=sys.stderr,
        )
        return 2
