"""The metadata image as a tree of paths: what an operator of Kafka looked up in ZooKeeper."""
