"""How weights are updated, and what is kept for it."""
