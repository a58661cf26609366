"""From a configuration file to a finished run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch

from littlecascade.errors import InputError, suggest
from littlecascade.training import config as configs
from littlecascade.training.loop import Trainer
from littlecascade.training.runstate import RunFolder
from littlecascade.training.task import Task


@dataclass(frozen=True)
class Entry:
    """A kind of training: its configuration, and where its task is (imported when asked for)."""

    config: type[configs.RunConfig]
    module: str
    task: str

    def build(self, config: configs.RunConfig) -> Task:
        factory: Callable[[configs.RunConfig], Task] = getattr(import_module(self.module), self.task)
        return factory(config)


TASKS: Mapping[str, Entry] = {
    "a": Entry(configs.StageARun, "littlecascade.training.tasks.stage_a", "StageATask"),
    "compressor": Entry(configs.CompressorRun, "littlecascade.training.tasks.compressor", "CompressorTask"),
    "text": Entry(configs.TextRun, "littlecascade.training.tasks.text", "TextTask"),
    "image": Entry(configs.ImageRun, "littlecascade.training.tasks.image", "ImageTask"),
    "b": Entry(configs.StageBRun, "littlecascade.training.tasks.stage_b", "StageBTask"),
    "c": Entry(configs.StageCRun, "littlecascade.training.tasks.stage_c", "StageCTask"),
}


def train(task: str, config_path: Path, overrides: Sequence[str] = (), max_minutes: float | None = None) -> Path | None:
    """Start a run, or go on with it, and return the folder of the finished weights; None if the time was up first.

    Raises `InputError` for an unknown task and for whatever is wrong with the configuration, the data or the weights.
    """
    entry, config = _open(task, config_path, overrides)
    folder = RunFolder(config.folder)
    folder.open(config.model_dump(mode="json"))
    trainer = Trainer(entry.build(config), config, folder)
    return folder.export_folder if trainer.run(max_minutes) else None


@torch.no_grad()
def export(task: str, config_path: Path, overrides: Sequence[str] = ()) -> Path:
    """Write the averaged weights of a run's last checkpoint, in full precision until they are stored; returns the folder.

    The run need not be finished, and may be going on meanwhile. Raises `InputError` as `train` does, and for a run
    without a checkpoint.
    """
    entry, config = _open(task, config_path, overrides)
    folder = RunFolder(config.folder)
    checkpoint = folder.peek()
    if checkpoint is None:
        raise InputError(f"Nothing to export: there is no {folder.state_path}. It is written every save_every updates.")
    built = entry.build(config)
    for phase in built.phases:
        for prefix, module in phase.modules.items():
            module.float().eval()
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(checkpoint.tensors[f"ema.{prefix}.{name}"])
            for name, buffer in module.named_buffers():
                buffer.copy_(checkpoint.tensors[f"buffer.{prefix}.{name}"])
    built.export(folder.export_folder)
    return folder.export_folder


def _open(task: str, config_path: Path, overrides: Sequence[str]) -> tuple[Entry, configs.RunConfig]:
    if task not in TASKS:
        raise InputError(f"Unknown kind of training {task!r}; there are {', '.join(TASKS)}.{suggest(task, TASKS)}")
    entry = TASKS[task]
    return entry, configs.load_config(entry.config, config_path, overrides)
