"""Topics of a running cluster as files, and back."""
