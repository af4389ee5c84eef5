"""Load on real brokers: the demo, the bench and the locust run."""
