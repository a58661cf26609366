from __future__ import annotations

import os
from collections.abc import Callable, Mapping
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
    "image_size": 32,
    "lr": 1e-2,
    "batch_size": 2,
    "updates": 2,
    "ema_beta": 0,
    "ema_iters": 1,
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

    def called(*words: str) -> Done:
        capsys.readouterr()
        code = main(list(words))
        return Done(code, *capsys.readouterr())

    return called


def lay_out(folder: Path) -> None:
    """Four pictures with captions."""
    folder.mkdir()
    for number, colour in enumerate(("red", "green", "blue", "yellow")):
        Image.new("RGB", (80, 72), colour).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a {colour} square", "utf-8")


def write(path: Path, keys: Mapping[str, Any]) -> None:
    """A configuration with some keys in the place of those of `LORA`; None leaves a key out."""
    values = {key: value for key, value in (LORA | dict(keys)).items() if value is not None}
    path.write_text(yaml.safe_dump(values), "utf-8")


@pytest.fixture
def configure(here: Path) -> Callable[..., str]:
    """Writes the configuration of a run over a folder `pictures`, and returns its name."""
    lay_out(here / "pictures")

    def configured(**keys: Any) -> str:
        write(here / "run.yaml", keys)
        return "run.yaml"

    return configured


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that trained a LoRA and a new word for two updates, with a preview after each."""
    folder = tmp_path_factory.mktemp("trained")
    lay_out(folder / "pictures")
    words = {"train_tokens": [["[mine]", "^dog</w>"]], "validation_prompts": ["[mine]"], "preview_every": 1}
    write(folder / "run.yaml", {**words, "output_path": str(folder)})
    assert main(["train", "lora", str(folder / "run.yaml")]) == 0
    return folder / "mine"
