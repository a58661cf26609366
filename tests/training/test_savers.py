"""The ways to save memory together, on Stage B and C as they are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from littlecascade.checkpoint import files
from littlecascade.checkpoint.networks import load_network
from littlecascade.training.run import train

TOGETHER = {"gradient_checkpointing": True, "fused_backward": True, "master_weights": "none", "updates": 2}


@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        pytest.param("c", {"precision": "bfloat16", "optimizer": "adafactor"}, marks=pytest.mark.slow),
        ("c", {"precision": "float16", "optimizer": "adamw8bit"}),
        pytest.param("b", {"precision": "float16", "optimizer": "adafactor"}, marks=pytest.mark.slow),
    ],
    ids=lambda given: given if isinstance(given, str) else "-".join(given.values()),
)
def test_a_stage_is_trained_and_exported(
    made_up: dict[str, dict[str, Any]], tmp_path: Path, stage: str, settings: dict[str, str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        yaml.safe_dump(made_up[stage] | TOGETHER | settings | {"experiment_id": "-".join(settings.values())})
    )
    exported = train(stage, path)
    assert exported is not None
    state = files.load(exported.parent / "state.safetensors")
    kind = f"optimizer.{stage}.master.stage_{stage}.clf.1.weight"
    assert state[kind].dtype == getattr(torch, settings["precision"])
    (weights,) = exported.glob("stage_*.safetensors")
    network = load_network(f"stage_{stage}", weights, dtype=torch.float32)
    for name, parameter in network.named_parameters():
        average = state[f"ema.stage_{stage}.{name}"]
        torch.testing.assert_close(parameter, average.half().float(), rtol=0, atol=0)
    assert network.divisor == 1
