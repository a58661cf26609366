"""What a step of LoRA training costs beside the official method: time and peak memory on a CPU.

python benchmarks/lora_step.py [--size lite|mid] [--rounds 2] [--ways official,official/frozen,ours,ours/recompute]

Stage C in bfloat16 with made-up weights, latents of 24 x 24, batch 1, 77 tokens of text, rank 16 on `.attn`, AdamW, no
dropout (the official code calls `eval` at the end of its first sample, after the first step).

official         the official release's method, on this project's network: torch's parametrisation on every matrix makes
                 W + scale * up down anew at each use, with factors in W's number format. The release leaves the other
                 weights' `requires_grad` on (train/train_c_lora.py), so every weight gets a gradient, which is kept.
official/frozen  the same with the network frozen, as it could have been
ours             a path beside each matrix through its factors, in float32
ours/recompute   the same with gradient checkpointing

Each runs in a process of its own, in turn, `--rounds` times. The time is the CPU's in the best of all steps; with
OMP_NUM_THREADS=1, so that no thread waits busily for another, it hardly depends on what else the machine does. The peak
is that of the resident set, weights, libraries and all, and beside it what it is above the libraries alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from training_memory import CONFIGS, loss, make

from littlecascade.adapters.injection import Deltas, Injection, Layer
from littlecascade.adapters.sites import OFFICIAL
from littlecascade.memory.measure import peak_rss
from littlecascade.models.stage_c import StageC
from littlecascade.training.config import RunConfig
from littlecascade.training.optim.optimizer import PhaseOptimizer

WAYS = ("official", "official/frozen", "ours", "ours/recompute")
BARS = {"ours": ("seconds", 0.7), "ours/recompute": ("peak", 0.4)}
"""What is asked of a way: a figure, and the most that it may be as a share of the official method's."""

RANK, ALPHA, STEPS = 16, 16.0, 3


class Whole(nn.Module):
    """A parametrisation: W + scale * up down."""

    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.up = nn.Parameter(torch.randn(rows, rank).to(weight.dtype))
        self.down = nn.Parameter(torch.zeros(rank, columns, dtype=weight.dtype))
        self.scale = scale

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down * self.scale


def parametrise(network: nn.Module, filters: Iterable[str] = OFFICIAL) -> dict[str, nn.Parameter]:
    """Put a `Whole` on the matrices of every module whose name holds a filter. Returns the factors, by name."""
    factors: dict[str, nn.Parameter] = {}
    chosen = [(name, module) for name, module in network.named_modules() if any(text in name for text in filters)]
    for name, module in chosen:
        for own in ("weight", "in_proj_weight"):
            if isinstance(getattr(module, own, None), nn.Parameter):
                whole = Whole(getattr(module, own), RANK, ALPHA / RANK)
                parametrize.register_parametrization(module, own, whole)
                factors |= {f"{name}.{own}.{factor}": value for factor, value in whole.named_parameters()}
    return factors


def inject(network: nn.Module) -> dict[str, nn.Parameter]:
    """Put this project's changes beside the same matrices. Returns the factors, by name."""
    deltas = Deltas.create(network, OFFICIAL, rank=RANK, alpha=ALPHA, generator=torch.Generator().manual_seed(0))
    Injection(network, [Layer(deltas)])
    return dict(deltas.named_parameters())


def prepare(network: StageC, way: str) -> dict[str, nn.Parameter]:
    """Make a network one that is trained in this way. Returns what is trained."""
    method, *marks = way.split("/")
    network.eval().requires_grad_(way == "official").checkpointing = "recompute" in marks
    return parametrise(network) if method == "official" else inject(network)


def measure(size: str, way: str) -> dict[str, float]:
    """The best time of a step in seconds, and the peak in bytes: in all, and above what the libraries take."""
    libraries = peak_rss()
    network = make(size, torch.bfloat16)
    parameters = prepare(network, way)
    base = {"experiment_id": "x", "lr": 1e-4, "batch_size": 1, "updates": STEPS, "webdataset_path": "none"}
    optimizer = PhaseOptimizer(parameters, RunConfig(**base))
    times: list[float] = []
    for step in range(STEPS):
        began = time.process_time()
        optimizer.begin(step, 1.0)
        optimizer.backward(loss(network))
        optimizer.step()
        times.append(time.process_time() - began)
    return {"seconds": min(times), "peak": float(peak_rss()), "above": float(peak_rss() - libraries)}


def alone(size: str, way: str) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--alone", "--size", size, "--ways", way]
    # tensors of their own pages, which the C library gives back at once and does not leave in pieces
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def verdict(way: str, found: Mapping[str, float], official: Mapping[str, float]) -> str:
    """What was asked of a way, and whether it is so."""
    if way not in BARS:
        return ""
    figure, most = BARS[way]
    share = found[figure] / official[figure]
    return f"{figure}: {share:.2f} of official, asked {most}: {'met' if share <= most else 'not met'}"


def main() -> None:
    """Measure each way in processes of its own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=list(CONFIGS), default="lite")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ways", default=",".join(WAYS), help="comma-separated; the first is compared with")
    parser.add_argument("--alone", action="store_true", help="measure the one way given, in this process")
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(measure(options.size, options.ways)))
        return
    ways = options.ways.split(",")
    found: dict[str, dict[str, float]] = {}
    for _ in range(options.rounds):
        for way in ways:
            now = alone(options.size, way)
            found[way] = {figure: min(value, found.get(way, now)[figure]) for figure, value in now.items()}
    first = found[ways[0]]
    print("| way | CPU s a step | share | peak, GiB | share | above the libraries, GiB | |\n" + "| --- " * 7 + "|")
    for way, own in found.items():
        seconds, peak = (f"{own[figure] / first[figure]:.2f}" for figure in ("seconds", "peak"))
        sizes = [f"{own[figure] / 2**30:.2f}" for figure in ("peak", "above")]
        print(f"| {way} | {own['seconds']:.1f} | {seconds} | {sizes[0]} | {peak} | {sizes[1]} | "
              f"{verdict(way, own, first)} |")  # fmt: skip
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()
