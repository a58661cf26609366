"""The first losses of every kind of training on made-up data, from a fixed seed.

python benchmarks/training_losses.py [--updates 5] [--tasks a,c] [--folder FOLDER]

Print them before and after a refactor: a difference beyond the last digits has to have a reason.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from littlecascade.checkpoint import files
from littlecascade.checkpoint.networks import ROLES, save_network
from littlecascade.conditioning.clip import TextTower, VisionTower
from littlecascade.conditioning.image import ImageEncoder
from littlecascade.conditioning.text import TextEncoder
from littlecascade.conditioning.tokenizer import train as train_tokenizer
from littlecascade.presets import TINY
from littlecascade.training import metrics
from littlecascade.training.run import TASKS, train

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (30, 60, 220), "yellow": (240, 220, 40)}
SIZE = 32


def make_inputs(folder: Path, pictures: int = 16) -> dict[str, dict[str, Any]]:
    """Write made-up pictures, captions and networks into `folder`. Returns a run configuration for every task."""
    folder.mkdir(parents=True, exist_ok=True)
    make_shard(folder / "data-000.tar", pictures)
    torch.manual_seed(0)
    captions = [f"a {colour} square" for colour in COLOURS] * 30
    tokenizer = train_tokenizer(captions, 530)
    tokenizer.save(folder / "text")
    TextEncoder(TextTower(TINY.text), tokenizer).save(folder / "text", torch.float16)
    ImageEncoder(VisionTower(TINY.image)).save(folder / "image", torch.float16)
    for role in ("stage_a", "stage_b", "stage_c", "compressor", "previewer"):
        network = ROLES[role].network(getattr(TINY, role))
        network.initialise(torch.Generator().manual_seed(0))
        save_network(role, network.eval(), folder / ROLES[role].file, dtype=torch.float16)
    (folder / "texts.txt").write_text("".join(f"{caption}\n" for caption in captions[:8]), "utf-8")
    files.save(folder / "teacher.safetensors", {"embeddings": torch.randn(8, TINY.text.projection).half()})
    return configurations(folder)


def make_shard(path: Path, pictures: int, size: int = SIZE) -> None:
    """A tar of pictures with coloured squares in them, each with two captions."""
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w") as archive:
        for number in range(pictures):
            colour = list(COLOURS)[number % len(COLOURS)]
            pixels = rng.integers(200, 256, (size, size, 3), dtype=np.uint8)
            top, left = rng.integers(0, size // 2, 2)
            pixels[top : top + size // 2, left : left + size // 2] = COLOURS[colour]
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "png")
            text = f"a {colour} square\nsomething {colour}\n".encode()
            for suffix, content in (("png", buffer.getvalue()), ("txt", text)):
                info = tarfile.TarInfo(f"{number:04d}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def configurations(folder: Path) -> dict[str, dict[str, Any]]:
    """A run configuration for every task, over the files that `make_inputs` wrote."""
    shared = {
        "output_path": str(folder / "runs"),
        "webdataset_path": str(folder / "data-*.tar"),
        "image_size": SIZE,
        "model_version": "tiny",
        "precision": "float32",
        "lr": 1e-3,
        "batch_size": 4,
        "updates": 3,
    }
    diffusion = {
        "text_path": str(folder / "text"),
        "effnet_checkpoint_path": str(folder / ROLES["compressor"].file),
        "previewer_checkpoint_path": str(folder / ROLES["previewer"].file),
        "objective": "v",
        "loss_weight": "uniform",
    }
    own: dict[str, dict[str, Any]] = {
        "a": {"crop": 16, "adversarial_weight": 0.1, "adversarial_start": 0.5},
        "compressor": {},
        "text": {"teacher_path": str(folder / "teacher.safetensors"), "tokenizer_path": str(folder / "text")},
        "image": {"text_path": str(folder / "text")},
        "b": diffusion | {"stage_a_checkpoint_path": str(folder / ROLES["stage_a"].file)},
        "c": diffusion | {"image_path": str(folder / "image"), "validation_prompts": ["a red square", "a blue square"]},
    }
    loras = {
        task: own[stage] | {"generator_checkpoint_path": str(folder / ROLES[f"stage_{stage}"].file), "rank": 2}
        for task, stage in (("lora", "c"), ("lora_b", "b"))
    }
    return {task: {"experiment_id": task} | shared | values for task, values in (own | loras).items()}


def losses(task: str, config: Mapping[str, Any], folder: Path) -> list[float | None]:
    """The loss of each update of a run, one row of its metrics each."""
    path = folder / f"{task}.yaml"
    path.write_text(yaml.safe_dump(dict(config)), "utf-8")
    run = folder / "runs" / task
    train(task, path)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [next(value for name, value in row.items() if name.endswith("loss")) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=5)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--folder", type=Path, help="keep the runs here")
    options = parser.parse_args()
    metrics.LOG_EVERY = 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        configs = make_inputs(folder)
        for task in options.tasks.split(","):
            values = losses(task, configs[task] | {"updates": options.updates}, folder)
            print(f"{task:12}", *(f"{value:.6f}" for value in values))


if __name__ == "__main__":
    main()
