"""Training: one loop, small tasks, runs that can be killed and go on."""
