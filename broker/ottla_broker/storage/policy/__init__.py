"""Pure storage rules: rolling, producer state, the idempotency window."""
