"""Runs a broker under cProfile: `python -m loadtests.bench.profiled_broker DIRECTORY`.

The profile of the event loop's thread is written to `DIRECTORY/broker-<id>.prof` at an orderly end.
"""

import cProfile
import os
import runpy
import sys
from pathlib import Path


def main() -> None:
    """Profile one broker process, told by its environment who it is."""
    directory = Path(sys.argv.pop(1))
    name = f"broker-{os.environ['OTTLA_NODE_ID']}.prof"
    profile = cProfile.Profile()
    profile.enable()
    try:
        runpy.run_module("ottla_broker", run_name="__main__", alter_sys=True)
    finally:
        profile.disable()
        profile.dump_stats(directory / name)


if __name__ == "__main__":
    main()
