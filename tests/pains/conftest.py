from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from PIL import Image

from littlecascade.cli.main import main

ELSEWHERE = ("SLURM_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_")
"""How variables begin that tell a process of others."""

LORA = {
    "experiment_id": "mine",
    "model_version": "tiny",
    "webdataset_path": "pictures",
    "image_size": 64,
    "lr": 1e-2,
    "batch_size": 2,
    "updates": 2,
    "rank": 2,
    "lora_alpha": 2,
    "objective": "v",
    "loss_weight": "uniform",
    "precision": "float32",
    "effnet_checkpoint_path": "effnet_encoder.safetensors",
    "previewer_checkpoint_path": "previewer.safetensors",
    "generator_checkpoint_path": "stage_c.safetensors",
}
"""A LoRA on the shipped weights, as small as can be."""


class Done(NamedTuple):
    """How a command ended: its exit status, and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that commands run in, on a machine where nothing is installed and no one else takes part."""
    for name in list(os.environ):
        if name.startswith(ELSEWHERE):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LITTLECASCADE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs a command of the command line."""

    def run(*words: str) -> Done:
        capsys.readouterr()
        code = main(list(words))
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture
def pictures(here: Path) -> Path:
    """A folder of four pictures with captions."""
    folder = here / "pictures"
    folder.mkdir()
    for number, colour in enumerate(("red", "green", "blue", "yellow")):
        Image.new("RGB", (80, 72), colour).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a {colour} square", "utf-8")
    return folder


@pytest.fixture
def configure(here: Path, pictures: Path) -> Callable[..., str]:
    """Writes the configuration of a run, with some keys in the place of those of `LORA`, and returns its name."""

    def write(name: str = "run.yaml", **keys: Any) -> str:
        values = {key: value for key, value in (LORA | keys).items() if value is not None}
        (here / name).write_text(yaml.safe_dump(values), "utf-8")
        return name

    return write
