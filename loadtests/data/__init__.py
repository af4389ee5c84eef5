"""The flights sample and the script that makes it."""
