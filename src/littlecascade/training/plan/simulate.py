"""A run from its first byte to its last, on tensors without data: what each phase of it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from littlecascade.checkpoint import files
from littlecascade.memory.dataless import GPU, dataless, replaced
from littlecascade.memory.tracker import Peak, Tracker
from littlecascade.training.config import RunConfig
from littlecascade.training.loop import Trainer
from littlecascade.training.optim import eight_bit
from littlecascade.training.optim.weight import Weight
from littlecascade.training.plan.rates import Clock, Rates
from littlecascade.training.plan.sketch import WEIGHTS, Sketch
from littlecascade.training.run import TASKS
from littlecascade.training.runstate import RunFolder

MASTERS, GRADIENTS, OPTIMIZER, AVERAGES = "master weights", "gradients", "optimizer", "averages"
"""Kinds of storages, beside those of `plan.sketch` and `memory.tracker`."""

ACCUMULATED = 2
"""Micro-batches of an update that are run at most: the third takes no more than the second."""


@dataclass(frozen=True)
class Simulation:
    """peaks: of each phase, in their order. seconds: of an update, as far as the rates are right."""

    peaks: tuple[Peak, ...]
    seconds: float

    @property
    def highest(self) -> Peak:
        """The peak of the phase that takes the most."""
        return max(self.peaks, key=lambda peak: peak.total)


def simulate(kind: str, config: RunConfig, rates: Rates, *, gpu: bool) -> Simulation:
    """Run a kind of training, a key of `TASKS`, through all that it does, once or twice.

    config: with its precision settled. Raises `InputError` where the run would.
    """
    for signed in (False, True):
        _ = eight_bit.levels(signed=signed), eight_bit.tables(signed=signed)  # kept for later, so they need their data
    device = GPU if gpu else torch.device("cpu")
    clock = Clock(rates)
    tracker = Tracker(lambda tensor: tensor.device == device, block=512 if gpu else 64, on_call=clock.count)
    accumulated = min(config.grad_accum_steps, ACCUMULATED)
    short = config.model_copy(
        update={"batch_size": config.micro_batch * accumulated, "grad_accum_steps": accumulated, "save_every": 1}
    )
    with dataless(), tracker, replaced(files, "save", _save), replaced(files, "write_text", _write):
        _run(kind, short, Sketch.on(device, config, tracker), tracker, clock)
    return Simulation(tuple(tracker.peaks), clock.total * config.grad_accum_steps / accumulated)


def _run(kind: str, config: RunConfig, sketch: Sketch, tracker: Tracker, clock: Clock) -> None:
    with tracker.phase("filling the cache"):
        sketch.fill(config)
    with tracker.phase("loading"):
        folder = RunFolder(Path("sketch-of-a-run"))
        trainer = Trainer(TASKS[kind].build(config, sketch), config, folder)
        # such that all phases of the task take part, and averages are due
        trainer.step = max(0, config.updates - config.updates % config.ema_iters - 1)
        _watch(trainer, tracker)
    for name in ("first update", "later updates"):
        with tracker.phase(name):
            batches = trainer.fetch(trainer.step)
            with clock.running():
                trainer.update(batches)
            del batches
            _mark(trainer, tracker)
        trainer.step -= 1
    with tracker.phase("preview"), trainer.averaged():
        trainer.task.preview()
    with tracker.phase("checkpoint"):
        trainer.save()
    with tracker.phase("export"):
        trainer.export()


def _watch(trainer: Trainer, tracker: Tracker) -> None:
    """Have gradients marked as they arrive, and what there is by now."""

    def arrive(parameter: Tensor) -> None:
        if parameter.grad is not None:
            tracker.mark(GRADIENTS, [parameter.grad])

    for weight in _weights(trainer):
        weight.parameter.register_post_accumulate_grad_hook(arrive)
    _mark(trainer, tracker)


def _mark(trainer: Trainer, tracker: Tracker) -> None:
    """Say what the storages are that a trainer keeps."""
    own = _weights(trainer)
    tracker.mark(MASTERS, (weight.master for weight in own if weight.master is not None))
    tracker.mark(WEIGHTS, (weight.parameter for weight in own))  # which its master may be
    if not trainer.ema.idle:
        tracker.mark(AVERAGES, trainer.ema.average.values())
    for optimizer in trainer.optimizers.values():
        tracker.mark(OPTIMIZER, optimizer.moments().values())


def _weights(trainer: Trainer) -> list[Weight]:
    return [weight for optimizer in trainer.optimizers.values() for weight in optimizer.weights.values()]


def _save(path: Any, tensors: Mapping[str, Tensor], *_: Any, **__: Any) -> None:
    """What `checkpoint.files.save` does of its tensors."""
    for name in tensors:
        tensors[name].detach().to("cpu").contiguous()


def _write(path: Path, text: str) -> None:
    """Nothing is written."""
