"""What holds for every test."""

from hypothesis import settings

# A machine that is busy with other things must not fail a test; speed is what `make bench` checks.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
