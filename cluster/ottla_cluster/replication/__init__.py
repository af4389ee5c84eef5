"""Partition replication: leader epochs, in-sync replicas and the high watermark."""
