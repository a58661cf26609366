"""A run from its first byte to its last, on tensors without data: what each phase of it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from littlecascade.checkpoint import files
from littlecascade.diffusion.schedule import CosineSchedule
from littlecascade.memory import nf4, parts
from littlecascade.memory.dataless import GPU, dataless, lies_on, replaced
from littlecascade.memory.ledger import Ledger, Peak
from littlecascade.presets import find_preset
from littlecascade.training.config import RunConfig
from littlecascade.training.config_adapters import LoraRun
from littlecascade.training.loop import Trainer
from littlecascade.training.optim import eight_bit, rounding
from littlecascade.training.optim.weight import Weight
from littlecascade.training.plan.rates import Clock, Rates
from littlecascade.training.plan.sketch import WEIGHTS, Sketch, formats
from littlecascade.training.run import TASKS
from littlecascade.training.runstate import RunFolder

MASTERS, GRADIENTS, OPTIMIZER, AVERAGES = "master weights", "gradients", "optimizer", "averages"
"""Kinds of storages, beside those of `plan.sketch` and `memory.ledger`."""

FILLING = "filling the cache"
"""The phase of a run's first start that all others can do without."""

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


def simulate(
    kind: str, config: RunConfig, rates: Rates, *, gpu: bool, on_phase: Callable[[str], None] | None = None
) -> Simulation:
    """Run a kind of training, a key of `TASKS`, through all that it does, once or twice.

    config: with its precision settled. on_phase: told of every phase that begins. Raises `InputError` where the run
    would.
    """
    device = GPU if gpu else torch.device("cpu")
    clock = Clock(rates)
    ledger = Ledger(partial(lies_on, device), block=512 if gpu else 64, on_call=clock.count, on_phase=on_phase)
    preset, stored = find_preset(config.model_version), formats(config)
    accumulated = min(config.grad_accum_steps, ACCUMULATED)
    update: dict[str, Any] = {"batch_size": config.micro_batch * accumulated, "grad_accum_steps": accumulated}
    if isinstance(config, LoraRun) and config.train_tokens and not config.text_path.is_dir():
        update["train_tokens"] = _words(len(config.train_tokens))
    short = config.model_copy(update=update)
    with ExitStack() as stack:
        for owner, name, value in (
            (rounding, "AT_ONCE", 1 << 20),  # it takes a few MiB more so, and a plan seconds in place of minutes
            (parts, "ON_CPU", 1 << 23),  # up to 48 MiB more, where weights are packed
            (parts, "ELSEWHERE", 1 << 23),
            (CosineSchedule, "steps", _few(CosineSchedule.steps)),
            (files, "save", _save),
            (files, "write_text", _write),
        ):
            stack.enter_context(replaced(owner, name, value))
        for cached in (eight_bit.levels, eight_bit.tables, nf4.levels, nf4.pairs):
            cached.cache_clear()  # of those without data, none is of any use afterwards
            stack.callback(cached.cache_clear)
        stack.enter_context(dataless())
        stack.enter_context(ledger)
        place = Path(stack.enter_context(TemporaryDirectory()))  # for what is written beside tensors
        _run(kind, short, place, Sketch(device, ledger, preset, stored), ledger, clock)
    return Simulation(tuple(ledger.peaks), clock.total * config.grad_accum_steps / accumulated)


def _run(kind: str, config: RunConfig, place: Path, sketch: Sketch, ledger: Ledger, clock: Clock) -> None:
    with ledger.phase(FILLING):
        sketch.fill(config)
    with ledger.phase("loading"):
        trainer = Trainer(TASKS[kind].build(config, sketch), config, RunFolder(place))
        # such that all phases of the task take part, and averages are due
        trainer.step = max(0, config.updates - config.updates % config.ema_iters - 1)
        _watch(trainer, ledger)
    for name, micros in (("first update", 1), ("later updates", ACCUMULATED)):
        with ledger.phase(name):
            batches = trainer.fetch(trainer.step)
            with clock.running():
                trainer.update(batches[:micros])
            del batches
            _mark(trainer, ledger)
        trainer.step -= 1
    with ledger.phase("preview"), trainer.averaged():
        trainer.task.preview()
    with ledger.phase("checkpoint"):
        trainer.save()
    with ledger.phase("export"):
        trainer.export()


def _watch(trainer: Trainer, ledger: Ledger) -> None:
    """Have gradients marked as they arrive, and what there is by now."""

    def arrive(parameter: Tensor) -> None:
        if parameter.grad is not None:
            ledger.mark(GRADIENTS, [parameter.grad])

    for weight in _weights(trainer):
        weight.parameter.register_post_accumulate_grad_hook(arrive)
    _mark(trainer, ledger)


def _mark(trainer: Trainer, ledger: Ledger) -> None:
    """Say what the storages are that a trainer keeps."""
    own = _weights(trainer)
    ledger.mark(MASTERS, (weight.master for weight in own if weight.master is not None))
    ledger.mark(WEIGHTS, (weight.parameter for weight in own))  # which its master may be
    if not trainer.ema.idle:
        ledger.mark(AVERAGES, trainer.ema.average.values())
    for optimizer in trainer.optimizers.values():
        ledger.mark(OPTIMIZER, optimizer.moments().values())


def _words(count: int) -> tuple[tuple[str, None], ...]:
    """New tokens in place of those that a tokenizer which is not there would know."""
    return tuple((f"[word-{number}]", None) for number in range(count))


def _weights(trainer: Trainer) -> list[Weight]:
    return [weight for optimizer in trainer.optimizers.values() for weight in optimizer.weights.values()]


def _few(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Previews are drawn in two steps: all of them take the same."""
    return lambda schedule, count, *args, **keywords: original(schedule, min(count, 2), *args, **keywords)


def _save(path: Any, tensors: Mapping[str, Tensor], *_: Any, **__: Any) -> None:
    """What `checkpoint.files.save` does of its tensors."""
    for name in tensors:
        tensors[name].detach().to("cpu").contiguous()


def _write(path: Path, text: str) -> None:
    """Nothing is written."""
