"""Whether a LoRA can learn anything, held against a LoRA that Adam trains as fast as it can."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from littlecascade.training.config_adapters import LoraRun
from littlecascade.training.config_file import parse_config


def run(**values: Any) -> LoraRun:
    base = {
        "experiment_id": "x",
        "lr": 1e-4,
        "batch_size": 1,
        "updates": 1000,
        "webdataset_path": "d",
        "rank": 4,
        "model_version": "1B",
        "effnet_checkpoint_path": "e",
        "generator_checkpoint_path": "g",
    }
    return parse_config(LoraRun, base | values)


@pytest.mark.parametrize(("rank", "alpha"), [(4, 1.0), (16, 16.0), (64, 1.0)])
def test_adam_moves_a_weight_as_far_as_is_said(rank: int, alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    lr, updates, outputs, inputs = 1e-3, 50, 4000, 3
    up = torch.randn(outputs, rank, generator=generator)
    down = torch.zeros(rank, inputs, requires_grad=True)
    slope = torch.randn(outputs, inputs, generator=generator)  # of a loss that is linear in the weights
    optimizer = torch.optim.Adam([down], lr=lr)
    for _ in range(updates):
        optimizer.zero_grad()
        (alpha / rank * (up @ down) * slope).sum().backward()
        optimizer.step()
    moved = (alpha / rank * (up @ down)).detach().square().mean().sqrt().item()
    assert moved == pytest.approx(run(rank=rank, lora_alpha=alpha, lr=lr, updates=updates).reach, rel=0.05)


@pytest.mark.parametrize(
    ("values", "silent"),
    [
        ({"rank": 256, "lora_alpha": 1, "lr": 1e-6, "updates": 10_000}, False),  # what people reported
        ({"rank": 256, "lora_alpha": 256, "lr": 1e-4}, True),
        ({"rank": 4, "lr": 1e-4, "updates": 10_000}, True),  # the official file
        ({"rank": 4, "lr": 1e-3, "updates": 100}, True),  # the fork's dry run
        ({"rank": 2000, "lora_alpha": 2000}, False),  # more than there are channels
        ({"rank": 256, "lr": 1e-6, "lora_type": "loha"}, True),  # other arithmetic: nothing is said
    ],
)
def test_what_cannot_learn_is_told(values: dict[str, Any], silent: bool) -> None:
    remarks = run(**values).remarks()
    assert (remarks == []) == silent
    if values["rank"] == 256 and not silent:
        assert "can't learn" in remarks[0]
        assert remarks[0].endswith("Raise lora_alpha (to 256, say) or lr (to 1e-4, say) or updates.")


def test_it_is_told_to_raise_what_is_low() -> None:
    [remark] = run(rank=16, lora_alpha=16, lr=2e-4, updates=2).remarks()
    assert remark.endswith("Raise updates.")
