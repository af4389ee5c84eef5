"""Looking into segment files: stopped brokers' and running ones', without disturbing either."""
