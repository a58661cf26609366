"""What a LoRA loses by being trained on a Stage C whose matrices are kept in 8 or 4 bits.

python benchmarks/base_weights.py [--updates 200] [--folder runs/base_weights]

Trains the LoRA of configs/training/lora_tiny.yaml, without its token, in float32 on each kind of base. Printed of each:
how far the base's predictions are from the exact one's (norm of the difference over the norm), and the loss over the
same samples, times and noise that training did not have, with the LoRA on the base that it was trained on, and on the
exact one, as it will be used. The first row is of no LoRA.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from littlecascade.training.config_adapters import LoraRun
from littlecascade.training.config_file import load_config
from littlecascade.training.draws import Draws
from littlecascade.training.run import train
from littlecascade.training.stock import Stock
from littlecascade.training.tasks.lora import LoraTask

CONFIG = Path(__file__).parents[1] / "configs" / "training" / "lora_tiny.yaml"
BASES = ("same", "int8", "nf4")
BATCHES, APART = 24, 10_000
"""Batches that a loss is the mean of, and the number of the first, beyond those of training."""


def main() -> None:
    """Train, look and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=Path("runs/base_weights"))
    options = parser.parse_args()
    settings = [f"output_path={options.folder}", f"updates={options.updates}", f"preview_every={options.updates + 1}"]
    settings += ["train_tokens=[]", "validation_prompts=[]", "precision=float32", f"save_every={options.updates}"]
    before = build(settings)
    exact = predict(before)
    print("| base | predictions differ by | loss | loss on the exact base |\n| --- | --- | --- | --- |")
    print(f"| no LoRA | | | {loss(before):.5f} |", flush=True)
    for kept in BASES:
        own = [*settings, f"experiment_id={kept}", f"base_weights={kept}"]
        folder = train("lora", CONFIG, own)
        assert folder is not None
        trained = f"lora_checkpoint_path={(folder / kept).absolute()}.safetensors"
        apart = (predict(build(own)) - exact).norm() / exact.norm()
        there, used = (loss(build([*given, trained])) for given in (own, settings))
        print(f"| {kept} | {float(apart):.4f} | {there:.5f} | {used:.5f} |", flush=True)


def build(settings: list[str]) -> LoraTask:
    """The task of the configuration with these settings."""
    config = load_config(LoraRun, CONFIG, settings)
    return LoraTask(config, Stock.of(config))


@torch.no_grad()
def loss(task: LoraTask) -> float:
    """The mean over samples that have been drawn anew."""
    values: list[float] = []
    size = task.config.micro_batch
    for number in range(BATCHES):
        positions = range(size * (APART + number), size * (APART + number + 1))
        batch = task.prepare(task.feed.take(number), Draws(task.config.seed, positions))
        values.append(float(task.loss("lora", batch, Draws(task.config.seed, positions, stream=1), 0.0).value))
    return fmean(values)


@torch.no_grad()
def predict(task: LoraTask) -> Tensor:
    """For latents with noise of every strength."""
    positions = range(task.config.micro_batch)
    batch = task.prepare(task.feed.take(0), Draws(task.config.seed, positions))
    time = torch.linspace(0.05, 0.95, len(positions))
    noise = torch.randn(batch["x0"].shape, generator=torch.Generator().manual_seed(0))
    angle = (time * math.pi / 2)[:, None, None, None]
    return task.network(batch["x0"] * angle.cos() + noise * angle.sin(), time, **task.conditions(batch))


if __name__ == "__main__":
    main()
