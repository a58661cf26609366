"""Whether plans are right: the peak that a plan expects of a run on this CPU, beside that of the run itself.

python benchmarks/plan.py [--runs lora-float32,stage-c-bfloat16]

Each run trains two updates in a process of its own, with made-up weights and pictures, from the first file that it reads
to its export. The peak is the resident set's, Python and torch and all. Memory is returned as it is freed, since the C
library is told to (MALLOC_MMAP_THRESHOLD_); without that, a run takes up to a tenth more. `mid` is a Stage C with 100
million weights in widths of 640.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from training_losses import configurations, make_inputs, make_shard

from littlecascade.checkpoint.networks import ROLES, save_network
from littlecascade.memory.measure import peak_rss
from littlecascade.presets import LITE
from littlecascade.training.run import TASKS, train

TRUNK = replace(
    LITE.stage_c.trunk, widths=(640, 640), heads=(10, 10), cond_width=640, down_depths=(2, 6), up_depths=(6, 2)
)
MID = replace(LITE.stage_c, trunk=TRUNK, text_width=192, pooled_width=384, image_width=384)

RUNS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "lora-float32": ("lora", {"precision": "float32", "batch_size": 2}),
    "lora-bfloat16-checkpointing": ("lora", {"precision": "bfloat16", "gradient_checkpointing": True, "batch_size": 4}),
    "stage-c-float32": ("c", {"precision": "float32"}),
    "stage-c-bfloat16-checkpointing": ("c", {"precision": "bfloat16", "gradient_checkpointing": True}),
    "stage-c-adafactor-fused": (
        "c",
        {
            **{"precision": "bfloat16", "optimizer": "adafactor", "master_weights": "none", "fused_backward": True},
            **{"ema_beta": 0.0, "ema_iters": 1, "gradient_checkpointing": True},
        },
    ),
    "stage-b-float32": ("b", {"precision": "float32", "batch_size": 4, "image_size": 512}),
    "stage-a-float32": ("a", {"precision": "float32", "batch_size": 4, "crop": 256, "adversarial_start": 0.0}),
}
"""Each run's kind, and what its configuration has beside that of `training_losses`."""


def make(name: str, folder: Path) -> tuple[str, Path]:
    """Write all that a run needs into a folder. Returns its kind, and its configuration."""
    kind, own = RUNS[name]
    make_inputs(folder)
    side = own.get("image_size", 768)
    make_shard(folder / "large.tar", 4, side)
    values = configurations(folder)[kind] | {"image_size": side, "batch_size": 1, "updates": 2, "save_every": 1}
    values |= {"webdataset_path": str(folder / "large.tar"), "device": "cpu", "memory": "given", "ema_iters": 1} | own
    if kind in ("c", "lora"):
        network = ROLES["stage_c"].network(MID)
        network.initialise(torch.Generator().manual_seed(0))
        values["generator_checkpoint_path"] = str(folder / "mid.safetensors")
        save_network("stage_c", network, folder / "mid.safetensors", dtype=torch.float32)
    if kind == "a":
        values["model_version"] = "lite"
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values), "utf-8")
    return kind, path


def expected(kind: str, path: Path) -> tuple[str, float]:
    """The phase that a plan expects to take the most, and how much, in bytes."""
    from littlecascade.training.config_file import load_config
    from littlecascade.training.plan.plan import make_plan
    from littlecascade.training.plan.target import Target

    config = load_config(TASKS[kind].config, path)
    highest = make_plan(kind, config, Target.of("cpu"), ways=0).estimate.highest
    print({part: round(size / 2**20) for part, size in highest.bytes.items()}, file=sys.stderr)
    return highest.phase, float(highest.total)


def measured(kind: str, path: Path) -> float:
    """The peak of a run in a process of its own, in bytes."""
    command = [sys.executable, __file__, "--alone", kind, str(path)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", default=",".join(RUNS), help="comma-separated")
    parser.add_argument("--alone", nargs=2, metavar=("KIND", "CONFIG"), help="train that, and print the peak")
    options = parser.parse_args()
    if options.alone:
        train(options.alone[0], Path(options.alone[1]))
        print(peak_rss())
        return
    print("| run | peak, GiB | planned, GiB | off by | phase |\n| --- | --- | --- | --- | --- |", flush=True)
    for name in options.runs.split(","):
        with tempfile.TemporaryDirectory() as temporary:
            kind, path = make(name, Path(temporary))
            phase, planned = expected(kind, path)
            peak = measured(kind, path)
        off = planned / peak - 1
        print(f"| {name} | {peak / 2**30:.2f} | {planned / 2**30:.2f} | {off:+.0%} | {phase} |", flush=True)


if __name__ == "__main__":
    main()
