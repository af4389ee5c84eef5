"""What the machines that decide on commands share: the runtime, and how they put things down."""
