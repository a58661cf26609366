"""A training that is over in a second: with batch normalisation, dropout, two phases and a tensor of the task's own.

python toy.py FOLDER [KEY=VALUE ...] trains it in a process of its own, so that a test can kill it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from littlecascade.checkpoint import files
from littlecascade.memory.precision import DTYPES, cast
from littlecascade.training.config import RunConfig
from littlecascade.training.draws import Draws
from littlecascade.training.feeds import IndexFeed
from littlecascade.training.loop import Trainer
from littlecascade.training.runstate import RunFolder
from littlecascade.training.task import Batch, Loss, Phase, Task

SAMPLES = 11


def config(folder: Path, **values: Any) -> RunConfig:
    """A configuration for a run in `folder`/toy."""
    base = {"lr": 0.01, "batch_size": 4, "updates": 20, "save_every": 7, "precision": "float32", "ema_iters": 3}
    return RunConfig(experiment_id="toy", output_path=folder, webdataset_path="none", **(base | values))


class ToyTask(Task):
    """`spoil(step-th call, loss)` may replace a loss; `pause` seconds are spent on each."""

    def __init__(self, config: RunConfig, *, width: int = 8, pause: float = 0.0) -> None:
        torch.manual_seed(1)
        self.data = torch.randn(SAMPLES, 6)
        self.feed = IndexFeed([range(SAMPLES)], config.micro_batch, config.seed)
        self.dtype = DTYPES[config.precision]
        network = nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.Dropout(0.3), nn.Linear(width, 6))
        self.network, self.judge = cast(network, self.dtype).train(), cast(nn.Linear(6, 1), self.dtype)
        self.phases = [Phase("one", {"network": self.network}), Phase("two", {"judge": self.judge}, start=0.5)]
        self.calls = torch.zeros(())
        self.pause = pause
        self.spoil: Callable[[int, Tensor], Tensor] = lambda call, loss: loss

    def prepare(self, raw: Sequence[int], draws: Draws) -> Batch:
        return {"x": self.data[list(raw)] + 0.1 * draws.normal(6)}

    def loss(self, phase: str, batch: Batch, draws: Draws, progress: float) -> Loss:
        time.sleep(self.pause)
        x = batch["x"]
        guess = self.network((x + draws.normal(6)).to(self.dtype))
        if phase == "two":
            return Loss(self.judge(guess.detach()).float().square().mean())
        self.calls += 1
        loss = self.spoil(int(self.calls), (guess.float() - x).square().mean())
        return Loss(loss, {"call": float(self.calls)})

    def preview(self) -> Image.Image | None:
        return Image.new("RGB", (2, 2), "red")

    def export(self, folder: Path) -> None:
        assert not self.network.training
        files.save(folder / "toy.safetensors", dict(self.network.state_dict()))

    def extra_state(self) -> dict[str, Tensor]:
        return {"calls": self.calls}


def run(config: RunConfig, **options: Any) -> Trainer:
    """Train until the end, or until something stops it."""
    folder = RunFolder(config.folder)
    folder.open(config.model_dump(mode="json"))
    trainer = Trainer(ToyTask(config, **options), config, folder)
    trainer.run()
    return trainer


if __name__ == "__main__":
    settings = {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in sys.argv[2:])}
    run(config(Path(sys.argv[1]), **settings), pause=0.002)
