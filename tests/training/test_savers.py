"""The ways to save memory together, on Stage B and C as they are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from littlecascade.checkpoint import files
from littlecascade.checkpoint.networks import load_network, save_network
from littlecascade.models.stage_c import StageC
from littlecascade.presets import TINY
from littlecascade.training.run import train


@pytest.mark.slow
def test_a_lora_is_trained_in_float16_beside_a_trunk_that_is_recomputed(
    made_up: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """And ends as near to the one of float32 as the two precisions are."""
    stage_c = StageC(TINY.stage_c)
    stage_c.initialise(torch.Generator().manual_seed(0))
    torch.nn.init.normal_(stage_c.get_parameter("clf.1.weight"), std=0.05, generator=torch.Generator().manual_seed(1))
    save_network("stage_c", stage_c, tmp_path / "stage_c.safetensors", dtype=torch.float32)
    own = {"generator_checkpoint_path": str(tmp_path / "stage_c.safetensors"), "rank": 4, "lr": 1e-3, "updates": 2}
    trained: list[dict[str, Tensor]] = []
    for precision in ("float32", "float16"):
        path = tmp_path / "run.yaml"
        name = {"experiment_id": f"lora-{precision}", "precision": precision, "gradient_checkpointing": True}
        path.write_text(yaml.safe_dump(made_up["c"] | own | name))
        exported = train("lora", path)
        assert exported is not None
        trained.append(files.load(exported / f"lora-{precision}.safetensors"))
    for name, tensor in trained[0].items():
        torch.testing.assert_close(trained[1][name].float(), tensor.float(), rtol=0.1, atol=1e-3)


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
