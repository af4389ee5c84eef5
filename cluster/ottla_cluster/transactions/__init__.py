"""The transaction coordinator as a pure state machine: who may write, and what was decided."""
