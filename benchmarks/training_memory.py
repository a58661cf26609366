"""What the ways to save memory in training save and cost: peak and time of a full finetune step of Stage C.

python benchmarks/training_memory.py [--size mid|lite] [--ways float32/adamw,bfloat16/adafactor/none/fused/recompute]

A way is precision/optimizer, then any of `none` (no master weights), `fused` (updates during the backward pass) and
`recompute` (gradient checkpointing). Each runs in a process of its own, with made-up weights, latents of 24 x 24 and
batch 1. The peak is the resident set's, less what it was once torch was imported; the time is the CPU's in the second
step. Both are told as shares of the first way's. Averages of weights (four bytes each, unless ema_beta is 0 and
ema_iters 1), encoders and data are left out. `mid` has 50 million weights in widths of 512, `lite` a billion.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import torch

from littlecascade.memory.measure import peak_rss
from littlecascade.memory.precision import DTYPES
from littlecascade.models.stage_c import StageC
from littlecascade.presets import LITE
from littlecascade.training.config import RunConfig
from littlecascade.training.optim.optimizer import PhaseOptimizer

SIDE = 24
TRUNK = replace(
    LITE.stage_c.trunk, widths=(512, 512), heads=(8, 8), cond_width=512, down_depths=(2, 4), up_depths=(4, 2)
)
CONFIGS = {"mid": replace(LITE.stage_c, trunk=TRUNK), "lite": LITE.stage_c}
WAYS = (
    *("float32/adamw", "bfloat16/adamw", "bfloat16/adamw/recompute", "bfloat16/adamw8bit", "bfloat16/adafactor"),
    *("bfloat16/adamw/none", "bfloat16/adamw8bit/none", "bfloat16/adafactor/none"),
    *("bfloat16/adamw8bit/none/fused/recompute", "bfloat16/adafactor/none/fused/recompute"),
)


def measure(size: str, way: str, steps: int = 2) -> dict[str, float]:
    """The peak in bytes, the time of the last step in seconds, and the number of weights."""
    start = peak_rss()
    precision, optimizer, *marks = way.split("/")
    network = make(size, DTYPES[precision])
    network.checkpointing = "recompute" in marks
    base = {"experiment_id": way, "lr": 1e-5, "batch_size": 1, "updates": steps, "webdataset_path": "none"}
    masters = "none" if "none" in marks else "float32"
    config = RunConfig(**base, optimizer=optimizer, master_weights=masters, fused_backward="fused" in marks)
    optimizer = PhaseOptimizer(dict(network.named_parameters()), config)
    seconds = 0.0
    for step in range(steps):
        begun = time.process_time()
        optimizer.begin(step, 1.0)
        optimizer.backward(loss(network))
        optimizer.step()
        seconds = time.process_time() - begun
    count = sum(parameter.numel() for parameter in network.parameters())
    return {"peak": float(peak_rss() - start), "seconds": seconds, "weights": float(count)}


def make(size: str, dtype: torch.dtype) -> StageC:
    """With weights from which predictions stay finite, in their type from the start."""
    with torch.device("meta"):
        network = StageC(CONFIGS[size]).to(dtype)
    network = network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else parameter.numel()
        torch.nn.init.uniform_(parameter, -(fan**-0.5), fan**-0.5, generator=generator)
    return network.train()


def loss(network: StageC) -> torch.Tensor:
    """Of one made-up picture and text."""
    config = network.config
    generator = torch.Generator().manual_seed(1)
    conditions = network.encode_conditions(torch.randn(1, 77, config.text_width, generator=generator))
    x = torch.randn(1, config.trunk.in_channels, SIDE, SIDE, generator=generator)
    return (network(x, torch.tensor([0.5]), **conditions) - x).square().mean()


def main() -> None:
    """Measure each way in a process of its own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=list(CONFIGS), default="mid")
    parser.add_argument("--ways", default=",".join(WAYS), help="comma-separated")
    parser.add_argument("--alone", action="store_true", help="measure the one way given, in this process")
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(measure(options.size, options.ways)))
        return
    print("| way | peak, GiB | bytes a weight | peak, share | time, share |\n| --- | --- | --- | --- | --- |")
    first: dict[str, float] = {}
    for way in options.ways.split(","):
        command = [sys.executable, __file__, "--alone", "--size", options.size, "--ways", way]
        # tensors of their own pages, which the C library gives back at once and does not leave in pieces
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        found = json.loads(done.stdout.splitlines()[-1])
        first = first or found
        peak, share = found["peak"], found["peak"] / first["peak"]
        each, slower = peak / found["weights"], found["seconds"] / first["seconds"]
        print(f"| {way} | {peak / 2**30:.2f} | {each:.1f} | {share:.2f} | {slower:.2f} |", flush=True)


if __name__ == "__main__":
    main()
