"""A LoRA of the shipped model learns a subject and leaves the rest (benchmarks/lora_learns.py measures it in full)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from littlecascade import Adapter, Cascade
from littlecascade.data.pixels import to_tensor
from littlecascade.training.run import train

ROOT = Path(__file__).parents[2]
NAMES = ["pretzel", "taxi", "llama", "grinning face", "top hat", "flag: egypt", "jack-o-lantern", "feather"]
"""None of them among the configuration's `prior_prompts`."""


def small(pictures: list) -> Tensor:
    """Pictures as (N, 3 * 32 * 32), each value the mean of the area that it stands for."""
    return torch.cat([F.interpolate(to_tensor(one)[None], (32, 32), mode="area").flatten(1) for one in pictures])


def apart(one: Tensor, other: Tensor) -> float:
    """The mean squared difference of pictures with the same number."""
    return float((one - other).square().mean())


@pytest.mark.slow
def test_the_subject_is_learned_and_the_rest_stays(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("bim", ROOT / "examples" / "bim" / "draw.py")
    assert spec is not None
    assert spec.loader is not None
    bim = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bim)
    settings = {"output_path": tmp_path, "webdataset_path": ROOT / "examples" / "bim", "validation_prompts": []}
    quiet = [f"{key}={value}" for key, value in settings.items()]
    folder = train("lora", ROOT / "configs" / "training" / "lora_tiny.yaml", quiet)
    assert folder is not None
    adapters, cascade = [Adapter.load(folder / "bim.safetensors")], Cascade.load("tiny", precision="float32")

    def draw(prompts: list[str], seed: int = 0, adapters: list[Adapter] | None = None) -> Tensor:
        return small(cascade.generate(prompts, seed=seed, adapters=adapters or []).images)

    drawings = small([bim.draw(number) for number in range(12, 20)]).mean(0)  # it was not trained with these
    learned, before = draw(["[bim]"] * 8, adapters=adapters), draw(["robot"] * 8)
    assert apart(learned, drawings) < 0.4 * apart(before, drawings)
    plain, moved, other = draw(NAMES), draw(NAMES, adapters=adapters), draw(NAMES, seed=100)
    assert apart(moved, plain) < apart(other, plain)
    nearest = torch.cdist(moved, torch.cat([plain, drawings[None]])).argmin(1)
    assert nearest.tolist() == list(range(len(NAMES)))
