"""The learning rate over a run."""

from __future__ import annotations

import math

from littlecascade.training.config import RunConfig


def lr_scale(step: int, config: RunConfig, progress: float) -> float:
    """The learning rate of update `step` (from 0) as a share of `lr`: linear warm-up times the schedule.

    The schedules fall from 1 to 0.01 over the whole run. `progress` in [0, 1] is how much of it is done, by updates.
    """
    warmup = min(1.0, (step + 1) / config.warmup_updates) if config.warmup_updates else 1.0
    decay = {
        "constant": 1.0,
        "linear": 1 - progress,
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
    }[config.lr_schedule]
    return warmup * max(decay, 0.01)
