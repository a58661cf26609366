"""What the ways to save memory in training save and cost: peak and time of a step of Stage C, all of it or a LoRA.

python benchmarks/training_memory.py [--size mid|lite] [--lora]
    [--ways float32/adamw,bfloat16/adafactor/none/fused/recompute,lora/nf4/recompute]

A way is precision/optimizer for a full finetune, then any of `none` (no master weights), `fused` (updates during the
backward pass) and `recompute` (gradient checkpointing). Or it is lora/bfloat16, lora/int8 or lora/nf4, by what the
frozen weights are kept in, and may end in `recompute`: a LoRA of rank 16 on all attention, in bfloat16. Each runs in a
process of its own, with made-up weights, latents of 24 x 24 and batch 1. The peak is the resident set's, less what it
was once torch was imported; the time is the CPU's in the second step. Both are told as shares of the first way's.
Averages of weights (four bytes each, unless ema_beta is 0 and ema_iters 1), encoders and data are left out. `mid` has
50 million weights in widths of 512, `lite` a billion.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from littlecascade.adapters.injection import Deltas, Injection, Layer
from littlecascade.checkpoint.lazy import LazyTensors
from littlecascade.memory.measure import peak_rss
from littlecascade.memory.precision import DTYPES
from littlecascade.memory.residence import PACKINGS, Residence
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
LORA_WAYS = tuple(f"lora/{kept}{how}" for how in ("", "/recompute") for kept in ("bfloat16", "int8", "nf4"))


def measure(size: str, way: str, steps: int = 2) -> dict[str, float]:
    """The peak in bytes, the time of the last step in seconds, and the number of weights."""
    start = peak_rss()
    first, second, *marks = way.split("/")
    lora = first == "lora"
    network = frozen(size, second) if lora else make(size, DTYPES[first])
    network.checkpointing = "recompute" in marks
    trained: nn.Module = network
    if lora:
        trained = Deltas.create(network, rank=16, generator=torch.Generator().manual_seed(0))
        Injection(network, [Layer(trained)])
    base = {"experiment_id": way, "lr": 1e-5, "batch_size": 1, "updates": steps, "webdataset_path": "none"}
    config = RunConfig(
        **base,
        optimizer="adamw" if lora else second,
        master_weights="none" if "none" in marks else "float32",
        fused_backward="fused" in marks,
    )
    optimizer = PhaseOptimizer(dict(trained.named_parameters()), config)
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


def frozen(size: str, kept: str) -> StageC:
    """With weights like these, kept as a LoRA's base is. Each is drawn when it is asked for, as if it were read."""
    with torch.device("meta"):
        network = StageC(CONFIGS[size])
    outline = {name: tensor.to(torch.bfloat16) for name, tensor in network.state_dict().items()}
    generator = torch.Generator().manual_seed(0)

    def draw(name: str) -> torch.Tensor:
        tensor = torch.empty_like(outline[name], device="cpu")
        fan = tensor[0].numel() if tensor.ndim > 1 else tensor.numel()
        return tensor.uniform_(-(fan**-0.5), fan**-0.5, generator=generator)

    residence = Residence(torch.device("cpu"), torch.bfloat16, kept if kept in PACKINGS else None)
    return residence.place(network, LazyTensors({name: partial(draw, name) for name in outline}), outline)


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
    parser.add_argument("--ways", help="comma-separated")
    parser.add_argument("--lora", action="store_true", help="the ways of a LoRA, in place of those of a full finetune")
    parser.add_argument("--alone", action="store_true", help="measure the one way given, in this process")
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(measure(options.size, options.ways)))
        return
    print("| way | peak, GiB | bytes a weight | peak, share | time, share |\n| --- | --- | --- | --- | --- |")
    first: dict[str, float] = {}
    for way in (options.ways or ",".join(LORA_WAYS if options.lora else WAYS)).split(","):
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
