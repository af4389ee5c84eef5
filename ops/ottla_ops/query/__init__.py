"""`ottla query`: topics as SQL tables."""
