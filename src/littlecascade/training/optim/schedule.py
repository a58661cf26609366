"""The learning rate over a run."""

from __future__ import annotations

import math

from littlecascade.training.config import RunConfig


def lr_scale(step: int, config: RunConfig, updates: int) -> float:
    """The learning rate of update `step` (from 0) as a share of `lr`: linear warm-up times the schedule.

    The schedules fall from 1 to 0.01 over the whole run. updates: of the whole run; where these are fewer than the
    configuration's, for want of time, the warm-up takes a tenth of them at most.
    """
    warmup = config.warmup_updates if updates >= config.updates else min(config.warmup_updates, updates // 10)
    progress = min(1.0, step / updates) if updates else 1.0
    decay = {
        "constant": 1.0,
        "linear": 1 - progress,
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
    }[config.lr_schedule]
    return (min(1.0, (step + 1) / warmup) if warmup else 1.0) * max(decay, 0.01)
