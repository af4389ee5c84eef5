"""The partition log on SQLite segment files."""
