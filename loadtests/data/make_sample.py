"""Makes the committed flights sample from the whole year.

    python -m loadtests.data.make_sample flights-2013.ndjson.gz

Every seventh flight of the year in the order of scheduled departure: all months, carriers and
airports, every aircraft several times, and small enough to be committed. The output depends on the
source alone, down to the byte.
"""

import argparse
import gzip
import io
import sys
from pathlib import Path

import msgspec

SAMPLE_PATH = Path(__file__).with_name("flights-sample.ndjson.gz")
EVERY_NTH = 7
SAMPLE_BYTES_MAX = 2_000_000


class _ScheduledDeparture(msgspec.Struct):
    """What decides the order: the hour of scheduled departure (UTC), then the minute in it."""

    time_hour: str
    minute: int


def make_sample(source: Path) -> bytes:
    """The sample as gzip bytes; lines are taken over as they are.

    Raises:
        msgspec.DecodeError: a line of the source is no flight.
    """
    decoder = msgspec.json.Decoder(_ScheduledDeparture)
    flights: list[tuple[str, int, bytes]] = []
    with gzip.open(source) as lines:
        for line in lines:
            departure = decoder.decode(line)
            flights.append((departure.time_hour, departure.minute, line.rstrip(b"\n") + b"\n"))
    flights.sort(key=lambda flight: flight[:2])  # Stable, so equal times keep the source's order.
    packed = io.BytesIO()
    # No file name and no time in the header, so that the bytes are the same on every run.
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as sample:
        for _, _, line in flights[::EVERY_NTH]:
            sample.write(line)
    return packed.getvalue()


def main() -> int:
    """Write the sample beside this script."""
    parser = argparse.ArgumentParser(description="Make the flights sample from the whole year.")
    parser.add_argument("source", type=Path, help="flights-2013.ndjson.gz")
    sample = make_sample(parser.parse_args().source)
    if len(sample) > SAMPLE_BYTES_MAX:
        print(f"the sample has {len(sample)} bytes, over {SAMPLE_BYTES_MAX}", file=sys.stderr)
        return 1
    SAMPLE_PATH.write_bytes(sample)
    print(f"{SAMPLE_PATH.name}: {len(sample)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
