"""The REST Proxy API v2, for clients that were written for a proxy in front of Kafka."""
