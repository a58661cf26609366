"""Whether plans are right: the peak that a plan expects of a run on this CPU, beside that of the run itself.

python benchmarks/plan.py [--runs lora-float32,stage-b-float32]
python benchmarks/plan.py --docs [--rows lora-1B,c-3.6B]

Each run trains two updates in a process of its own, with made-up weights and pictures, from the first file that it
reads to its export. The peak is the resident set's, Python and torch and all; the C library is told to return what is
freed (MALLOC_MMAP_THRESHOLD_). `mid`, the Stage C of these runs, has 50 million weights in widths of 512. With `--docs`
rows of the table in docs/memory.md are written anew.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from training_losses import configurations, make_inputs, make_shard

from littlecascade.checkpoint.networks import ROLES, save_network
from littlecascade.data.cache import BATCH_PIXELS
from littlecascade.memory.cards import GIB
from littlecascade.memory.measure import peak_rss
from littlecascade.presets import LITE
from littlecascade.training.config_file import load_config, parse_config
from littlecascade.training.plan.plan import Plan, make_plan
from littlecascade.training.plan.simulate import Simulation
from littlecascade.training.plan.target import Target
from littlecascade.training.run import TASKS, train

TRUNK = replace(
    LITE.stage_c.trunk, widths=(512, 512), heads=(8, 8), cond_width=512, down_depths=(2, 4), up_depths=(4, 2)
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
            "precision": "bfloat16",
            "optimizer": "adafactor",
            "master_weights": "none",
            "fused_backward": True,
            "ema_beta": 0.0,
            "ema_iters": 1,
            "gradient_checkpointing": True,
        },
    ),
    "stage-b-float32": ("b", {"precision": "float32", "batch_size": 2, "image_size": 512}),
    "stage-a-float32": (
        "a",
        {"precision": "float32", "batch_size": 2, "crop": 128, "image_size": 192, "adversarial_start": 0.0},
    ),
}
"""Each run's kind, and what its configuration has beside that of `training_losses`."""


DOCS = Path(__file__).parents[1] / "docs" / "memory.md"
CARDS = {6: "RTX 2060", 8: "RTX 4060", 11: "RTX 2080 Ti", 12: "RTX 3060", 16: "RTX 4060 Ti 16GB", 24: "RTX 3090"}
"""By their memory in GB; those with 6 and 11 have no bfloat16."""

_DIFFUSION = {
    "effnet_checkpoint_path": "effnet_encoder.safetensors",
    "previewer_checkpoint_path": "previewer.safetensors",
}
_ROWS: Mapping[str, tuple[str, ...]] = {
    "lora": ("tiny", "1B", "3.6B"),
    "c": ("tiny", "1B", "3.6B"),
    "lora_b": ("tiny", "700M", "3B"),
    "b": ("tiny", "700M", "3B"),
    "a": ("tiny", "lite"),
    "compressor": ("tiny", "lite"),
    "text": ("tiny", "lite"),
    "image": ("tiny",),  # the official image tower was trained beside another text tower
}
ROWS = tuple(f"{kind}-{version}" for kind, versions in _ROWS.items() for version in versions)
"""What the documents have a row for."""


def planned(row: str, card: str, known: dict[str, Simulation]) -> Plan:
    """The plan of a row on a card, at batch 1 (8 for encoders) and at 768 pixels (1024 for Stage B, 128 for `tiny`)."""
    kind, _, version = row.rpartition("-")
    stage_b, small = kind in ("b", "lora_b"), version == "tiny"
    values: dict[str, Any] = {"experiment_id": "plan", "webdataset_path": "none", "lr": 1e-4, "updates": 1000}
    values |= {"model_version": version, "image_size": 128 if small else 1024 if stage_b else 768}
    values |= {"batch_size": 1 if kind in ("lora", "c", "lora_b", "b") else 8}
    values |= _DIFFUSION if values["batch_size"] == 1 else {}
    values |= {"stage_a_checkpoint_path": "stage_a.safetensors"} if stage_b else {}
    values |= {"validation_prompts": ["one", "two"]} if kind in ("c", "lora") else {}
    if kind.startswith("lora"):
        values |= {"generator_checkpoint_path": f"{'stage_b' if stage_b else 'stage_c'}_bf16.safetensors", "rank": 16}
    values |= {"crop": 128} if kind == "a" else {"text_path": "text"} if kind == "image" else {}
    values |= {"teacher_path": "teacher.safetensors", "tokenizer_path": "text"} if kind == "text" else {}
    return make_plan(kind, parse_config(TASKS[kind].config, values), Target.of(card), ways=1, known=known)


def row_of(row: str) -> str:
    """A line of the table: of each card what is set beside the defaults, and the peak in GiB."""
    known: dict[str, Simulation] = {}
    cells = [row.rpartition("-")[0], row.rpartition("-")[2]]
    for card in CARDS.values():
        plan = planned(row, card, known)
        letters = "".join(_letter(key, value) for key, value in (plan.ways[0].values if plan.ways else {}).items())
        need = f"{plan.best.highest.total / GIB:.1f}"
        cells.append(f"{need} {letters}".strip() if plan.best.fits else f"no: {need}")
    return f"| {' | '.join(cells)} |"


LETTERS = {
    "gradient_checkpointing=True": "c",
    "offload=weights": "w",
    "offload=optimizer": "o",
    "offload=all": "wo",
    "base_weights=int8": "8",
    "base_weights=nf4": "4",
    "optimizer=adamw8bit": "m",
    "optimizer=adafactor": "f",
    "fused_backward=True": "b",
    "master_weights=none": "r",
    "ema_beta=0.0": "e",
}
"""What stands for a setting in the table."""


def _letter(key: str, value: Any) -> str:
    return LETTERS.get(f"{key}={value}", "")


def write_docs(rows: Sequence[str]) -> None:
    """Write some rows of the table anew, and leave the others."""
    text = DOCS.read_text("utf-8")
    for row in rows:
        begin = "| {} | {} |".format(*row.rsplit("-", 1))
        line = row_of(row)
        print(line, flush=True)
        text = "".join(line + "\n" if old.startswith(begin) else old for old in text.splitlines(keepends=True))
        DOCS.write_text(text, "utf-8")


def make(name: str, folder: Path) -> tuple[str, Path]:
    """Write all that a run needs into a folder. Returns its kind, and its configuration."""
    kind, own = RUNS[name]
    make_inputs(folder)
    side = own.get("image_size", 768)
    make_shard(folder / "large.tar", max(4, BATCH_PIXELS // side**2), side)  # as many as a cache encodes at once
    values = configurations(folder)[kind] | {"image_size": side, "batch_size": 1, "updates": 2, "save_every": 2}
    values |= {"webdataset_path": str(folder / "large.tar"), "device": "cpu", "memory": "given", "ema_iters": 1} | own
    values |= {"validation_prompts": []} if kind in ("c", "lora") else {}  # previews take as long as the rest
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
    parser.add_argument("--docs", action="store_true", help="write the tables of docs/memory.md anew")
    parser.add_argument("--rows", default=",".join(ROWS), help="of the tables, comma-separated")
    parser.add_argument("--alone", nargs=2, metavar=("KIND", "CONFIG"), help="train that, and print the peak")
    options = parser.parse_args()
    if options.alone:
        train(options.alone[0], Path(options.alone[1]))
        print(peak_rss())
        return
    if options.docs:
        write_docs(options.rows.split(","))
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
