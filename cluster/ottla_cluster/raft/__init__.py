"""Raft-lite: the quorum that holds the cluster's metadata."""
