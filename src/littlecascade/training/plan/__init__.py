"""What a run would take of memory and time, found by running its own code on tensors without data."""
