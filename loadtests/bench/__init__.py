"""`make bench`: throughput, latency and footprint of brokers on this machine, in one run."""
