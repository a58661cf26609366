"""Checks of a run configuration: that it can be read, and that all that it names is there and fits together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from littlecascade.checkpoint import files
from littlecascade.checks import Line
from littlecascade.doctor import stock
from littlecascade.errors import InputError, suggest
from littlecascade.training import preflight, preflight_data
from littlecascade.training.config import DiffusionRun, RunConfig
from littlecascade.training.config_file import load_config
from littlecascade.training.kinds import KINDS, kind_of
from littlecascade.training.plan.auto import choose
from littlecascade.training.run import TASKS, settle
from littlecascade.training.runstate import RunFolder

_CHECKPOINT = 16  # bytes of a value of a checkpoint: float32 of the weights, their average and two moments


@dataclass(frozen=True)
class Run:
    """A configuration that can be used. kind: a key of `KINDS`. folder: that it lies in."""

    kind: str
    config: RunConfig
    folder: Path


def open_run(path: Path, kind: str | None = None, overrides: Sequence[str] = ()) -> Run:
    """A configuration of a kind, or of the one kind that it can be of.

    Raises `InputError` for an unknown kind, for a file that may be of several, and for whatever is wrong with it.
    """
    if kind is not None and kind not in KINDS:
        raise InputError(f"Unknown kind of training {kind!r}; there are {', '.join(KINDS)}.{suggest(kind, KINDS)}")
    if kind is None:
        kind = kind_of(path, overrides)
    return Run(kind, load_config(KINDS[kind], path, overrides), path.resolve().parent)


def settings(run: Run) -> Iterator[Line]:
    """What the configuration is of, and what is to be said of it."""
    config = run.config
    text = f"{run.kind} {config.model_version}, {config.updates:,} updates, in {config.folder}"
    if run.kind in TASKS:
        yield Line("ok", "config", text)
    else:
        yield Line("note", "config", f"{text}; this version can't train this kind")
    yield from (Line("note", "config", remark) for remark in config.remarks())


def batch(run: Run) -> Iterator[Line]:
    """How a batch is divided. What does not divide was refused when the configuration was read."""
    config = run.config
    steps = f"grad_accum_steps {config.grad_accum_steps} x {config.micro_batch} at once"
    yield Line("ok", "batch", f"batch_size {config.batch_size} = {steps}")


def resumed(run: Run) -> Iterator[Line]:
    """Whether the run has begun already, and can go on."""
    folder = RunFolder(run.config.folder)
    if not folder.state_path.is_file():
        return
    try:
        settle(run.config, folder)
        step = int(files.metadata(folder.state_path).get("step", 0))
    except InputError as error:
        yield Line("fix", "resume", str(error), "Set it back, or choose another experiment_id.")
        return
    yield Line("ok", "resume", f"goes on after update {step:,}")


def room(run: Run) -> Iterator[Line]:
    """Whether there is room for checkpoints; a new one is written before the old one is dropped."""
    config = run.config
    needed = 2 * _CHECKPOINT * _trained(run)
    yield from stock.room(config.output_path, "output_path", needed)
    if not os.access(stock.standing(config.output_path), os.W_OK):
        text = f"You may not write into output_path {config.output_path}."
        yield Line("fix", "disk", text, "Set output_path to a folder of yours.")
    yield from stock.room(config.cache_folder, "cache")


def memory(run: Run) -> Iterator[Line]:
    """Whether it fits into this machine's memory, or is made to by `memory: auto`."""
    if run.kind not in TASKS or RunFolder(run.config.folder).state_path.is_file():
        return
    try:
        choice = choose(run.kind, run.config)
    except InputError:  # of a file that other checks tell of
        return
    if not choice.line:
        yield Line("ok", "memory", "fits into this machine's")
        return
    text = choice.line.removeprefix("memory: ")
    remedy = "" if choice.fits else f"'littlecascade plan {run.kind} CONFIG' tells each phase."
    yield Line("ok" if choice.fits else "note", "memory", text, remedy)


def _trained(run: Run) -> int:
    """Values that are trained, 0 where that is not known beforehand."""
    from littlecascade.checkpoint.recognise import recognise

    config = run.config
    path = config.generator_checkpoint_path if run.kind in ("b", "c") and isinstance(config, DiffusionRun) else None
    if path is None or not path.is_file():
        return 0
    try:
        return sum(part.parameters for part in recognise(path) if part.role == f"stage_{run.kind}")
    except (InputError, OSError):
        return 0


def _preflight(check: preflight.Check) -> Callable[[Run], Iterable[Line]]:
    return lambda run: check(run.config, run.folder)


CHECKS: tuple[Callable[[Run], Iterable[Line]], ...] = (
    settings,
    batch,
    resumed,
    *map(_preflight, (preflight.files, preflight.extras, preflight.networks, preflight.towers, preflight.adapters)),
    *map(_preflight, (preflight_data.places_of, preflight_data.samples)),
    room,
    memory,
)
