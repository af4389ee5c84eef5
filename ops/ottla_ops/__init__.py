"""Running Ottla: the CLI, the supervisor and local clusters."""
