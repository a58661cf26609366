"""What is wrong with a machine, an installation or a run configuration, and what to do about it."""
