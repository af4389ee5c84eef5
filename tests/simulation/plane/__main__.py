"""Plays one seed again: `python -m tests.simulation.plane SEED`."""

import sys

from tests.simulation.plane.options import Options
from tests.simulation.plane.world import World

world = World(Options.from_seed(int(sys.argv[1])))
world.run()
print(world.options)
print(dict(world.events), f"{world.event_count} events, {world.now_ms} ms")
