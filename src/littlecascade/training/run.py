"""From a configuration file to a finished run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from tqdm import tqdm

from littlecascade.errors import InputError, suggest
from littlecascade.memory.precision import DTYPES, choose_device
from littlecascade.training import config as configs
from littlecascade.training import preflight
from littlecascade.training.batch import fitted
from littlecascade.training.config_adapters import LoraBRun, LoraRun
from littlecascade.training.config_file import Config, load_config, parse_config, read_values
from littlecascade.training.data import Filled, fill_cache
from littlecascade.training.export import export_averages
from littlecascade.training.loop import Trainer
from littlecascade.training.plan.auto import choose, kept, less
from littlecascade.training.processes import Share
from littlecascade.training.room import OutOfRoomError, clear, ending
from littlecascade.training.runstate import RunFolder
from littlecascade.training.stock import Stock, precision_of
from littlecascade.training.task import Task


@dataclass(frozen=True)
class Entry:
    """A kind of training: its configuration, and where its task is (imported when asked for)."""

    config: type[configs.RunConfig]
    module: str
    task: str

    def build(self, config: configs.RunConfig, stock: Stock | None = None) -> Task:
        """The task, with its data opened and its networks in place: from the files that are named, or from a stock."""
        factory: Callable[[configs.RunConfig, Stock], Task] = getattr(import_module(self.module), self.task)
        return factory(config, Stock.of(config) if stock is None else stock)


TASKS: Mapping[str, Entry] = {
    "a": Entry(configs.StageARun, "littlecascade.training.tasks.stage_a", "StageATask"),
    "compressor": Entry(configs.CompressorRun, "littlecascade.training.tasks.compressor", "CompressorTask"),
    "text": Entry(configs.TextRun, "littlecascade.training.tasks.text", "TextTask"),
    "image": Entry(configs.ImageRun, "littlecascade.training.tasks.image", "ImageTask"),
    "b": Entry(configs.StageBRun, "littlecascade.training.tasks.stage_b", "StageBTask"),
    "c": Entry(configs.StageCRun, "littlecascade.training.tasks.stage_c", "StageCTask"),
    "lora": Entry(LoraRun, "littlecascade.training.tasks.lora", "LoraTask"),
    "lora_b": Entry(LoraBRun, "littlecascade.training.tasks.lora", "LoraBTask"),
}


def train(
    task: str,
    config_path: Path,
    overrides: Sequence[str] = (),
    max_minutes: float | None = None,
    *,
    minutes: float | None = None,
    restart: bool = False,
) -> Path | None:
    """Start a run, or go on with it, and return the folder of the finished weights; None if it was stopped first.

    max_minutes: after which it is stopped. minutes: from now on, that what is left of it is fitted to. restart: begin
    anew, with what there was moved aside. Raises `InputError` for an unknown task and for whatever is wrong with the
    configuration, the data or the weights.
    """
    span = _Span(max_minutes, minutes, time.monotonic())
    entry, config = _open(task, config_path, overrides)
    for line in [*config.remarks(), *preflight.require(config, config_path.resolve().parent)]:
        tqdm.write(line, file=sys.stderr)
    folder = RunFolder(config.folder)
    if restart and (aside := folder.set_aside()) is not None:
        tqdm.write(f"The run that was there is in {aside} now.", file=sys.stderr)
    config = settle(config, folder)
    if not folder.state_path.is_file():
        choice = choose(task, config)
        config = choice.config
        if choice.line:
            tqdm.write(choice.line, file=sys.stderr)
    folder.open(config.model_dump(mode="json"))
    while True:
        begun = time.monotonic()
        try:
            return _train(entry, config, folder, span)
        except OutOfRoomError as error:
            choice = less(task, config, error)
            if choice is None:
                raise
        tqdm.write(choice.line, file=sys.stderr)
        clear()
        config, span = choice.config, span.after(begun)
        folder.open(config.model_dump(mode="json"))


@dataclass(frozen=True)
class _Span:
    """The times that `train` is given, and since when."""

    max_minutes: float | None
    minutes: float | None
    since: float

    def after(self, begun: float) -> _Span:
        """What is left of it, of which a run that did not come to its end took all from a moment on."""
        if self.max_minutes is None:
            return self
        return replace(self, max_minutes=max(0.0, self.max_minutes - (time.monotonic() - begun) / 60))


def _train(entry: Entry, config: configs.RunConfig, folder: RunFolder, span: _Span) -> Path | None:
    """`train`, with a settled configuration. Raises `OutOfRoomError` where it takes more memory than there is."""
    with ending("while networks and data were loaded", config):
        built = entry.build(config)
        trainer = Trainer(built, config, folder)
    if built.broken:
        first = f"{len(built.broken)} samples are left out, the first: {built.broken[0]}"
        tqdm.write(f"{first} (all are in {folder.folder / 'report.html'})", file=sys.stderr)
    if trainer.run(span.max_minutes, minutes=span.minutes, since=span.since):
        return folder.export_folder
    done = f"{trainer.step:,} of {trainer.updates:,} updates are done"
    tqdm.write(f"Stopped: {done}, and {folder.state_path} has all that it takes to go on.", file=sys.stderr)
    return None


def export(task: str, config_path: Path, overrides: Sequence[str] = ()) -> Path:
    """Write the averaged weights of a run's last checkpoint, at full precision until stored, and return their folder.

    The run need not be finished, and may be going on meanwhile. Raises `InputError` as `train` does, and for a run
    without a checkpoint.
    """
    entry, config = _open(task, config_path, overrides)
    folder = RunFolder(config.folder)
    checkpoint = folder.peek()
    if checkpoint is None:
        raise InputError(f"Nothing to export: there is no {folder.state_path}, which is written as a run goes on.")
    export_averages(entry.build(config), checkpoint.tensors, folder)
    return folder.export_folder


def cache(task: str, config_path: Path, overrides: Sequence[str], share: Share) -> Filled:
    """Make a share of what a run needs of its data, as far as it is not there. Raises `InputError` as `train` does."""
    _, config = _open(task, config_path, overrides)
    return fill_cache(config, *share)


def fit(task: str, config_path: Path, overrides: Sequence[str] = ()) -> list[str]:
    """The overrides that make a configuration's batch divide into micro-batches; none where it does already.

    Raises `InputError` for an unknown task and for whatever else is wrong with the configuration.
    """
    values, lines = read_values(config_path, overrides)
    config = parse_config(_find(task).config, values, source=str(config_path), lines=lines)
    wanted = {"batch_size": config.batch_size, "grad_accum_steps": config.grad_accum_steps}
    fits = dict(zip(wanted, fitted(*wanted.values()), strict=True))
    return [f"{key}={value}" for key, value in fits.items() if value != wanted[key]]


def open_config(task: str, config_path: Path, overrides: Sequence[str] = ()) -> configs.RunConfig:
    """The configuration of a kind of training. Raises `InputError` for an unknown kind and for what is wrong in it."""
    return _open(task, config_path, overrides)[1]


def _open(task: str, config_path: Path, overrides: Sequence[str]) -> tuple[Entry, configs.RunConfig]:
    entry = _find(task)
    try:
        return entry, load_config(entry.config, config_path, overrides)
    except InputError as error:
        if (other := _other_kind(task, config_path, overrides)) is None:
            raise
        raise InputError(
            f"{config_path} is a configuration for {other}: 'littlecascade train {other} {config_path}' reads it. For "
            f"{task}, {error}"
        ) from None


def _other_kind(task: str, config_path: Path, overrides: Sequence[str]) -> str | None:
    """The one kind of training that a configuration is of, if that is not this one."""
    from littlecascade.training.kinds import fitting  # it needs `TASKS`

    found = fitting(config_path, overrides)
    return found[0] if len(found) == 1 and found[0] != task else None


def _find(task: str) -> Entry:
    if task not in TASKS:
        raise InputError(f"Unknown kind of training {task!r}; there are {', '.join(TASKS)}.{suggest(task, TASKS)}")
    return TASKS[task]


def settle(config: Config, folder: RunFolder) -> Config:
    """`config` as this run goes on with it: what `auto` stands for is found out once, and then stays what it was.

    Raises `InputError` if the run has a checkpoint and one of the keys in `config.fixed` differs from its own.
    """
    stored = folder.config()
    if folder.state_path.is_file():
        config = kept(config, stored)
        _check_fixed(config, stored, folder.folder)
    if config.precision != "auto":
        return config
    precision = stored.get("precision")
    if precision not in DTYPES:
        precision = precision_of(config, choose_device(config.device))
    return config.model_copy(update={"precision": precision})


def _check_fixed(config: configs.RunConfig, stored: Mapping[str, Any], folder: Path) -> None:
    given = config.model_dump(mode="json")
    changed = [key for key in given if key in config.fixed and key in stored and stored[key] != given[key]]
    if changed:
        listing = "; ".join(f"{key} was {stored[key]!r}, is now {given[key]!r}" for key in changed)
        raise InputError(
            f"The run in {folder} can't go on with another configuration: {listing}. Set it back, or begin anew with "
            "--restart, which moves this run aside, or with another experiment_id."
        )
