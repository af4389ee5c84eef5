"""The `ottla` command: runs the CLI where it is installed, else names the extra that has it."""

import importlib
import sys


def main() -> int:
    """Run the CLI; exit code 2 with one clear line when its packages are missing."""
    try:
        cli = importlib.import_module("ottla_ops.cli.main")
    except ModuleNotFoundError as missing:
        print(
            f"ottla: the command line needs the server extra ({missing.name} is missing): "
            "pip install 'ottla[server]'",
            file=sys.stderr,
        )
        return 2
    return int(cli.run() or 0)
