"""What lies in the machine's memory while it is not used: where it is changes nothing."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from littlecascade.checkpoint import files
from littlecascade.errors import InputError
from littlecascade.memory.offload import Lane
from littlecascade.models.stage_c import StageC
from littlecascade.training.config import RunConfig, StageCRun
from littlecascade.training.config_adapters import LoraRun
from littlecascade.training.ema import Ema
from littlecascade.training.optim.optimizer import PhaseOptimizer
from littlecascade.training.run import train

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
RULES = ["adamw", "adamw8bit", "adafactor", "muon"]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def config(**values: Any) -> RunConfig:
    base = {"experiment_id": "x", "lr": 0.01, "batch_size": 4, "updates": 9, "webdataset_path": "none"}
    return RunConfig(**(base | values))


def network(small_networks: ModuleType, device: torch.device, dtype: torch.dtype) -> StageC:
    made = StageC(small_networks.CONFIGS["stage_c"])
    made.load_state_dict(small_networks.weights("stage_c"))
    return made.to(device, dtype)


def loss(made: StageC) -> Tensor:
    generator, device = torch.Generator().manual_seed(2), made.get_parameter("clf.1.weight").device
    conditions = made.encode_conditions(torch.randn(2, 3, 64, generator=generator).to(device))
    x = torch.randn(2, 6, 6, 6, generator=generator).to(device)
    return (made(x, torch.tensor([0.9, 0.3], device=device), **conditions) - x).square().mean()


def steps(made: StageC, optimizer: PhaseOptimizer, chosen: range) -> None:
    for step in chosen:
        optimizer.begin(step, 1.0)
        optimizer.backward(loss(made))
        optimizer.step()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("masters", ["float32", "none"])
@pytest.mark.parametrize("rule", RULES)
def test_an_offloaded_optimizer_ends_with_the_same_weights(
    small_networks: ModuleType, device: torch.device, rule: str, masters: str, fused: bool
) -> None:
    """And with the same state, from which one that is not offloaded goes on to the same weights."""
    settings = config(optimizer=rule, master_weights=masters, fused_backward=fused)
    plain, away, resumed = (network(small_networks, device, torch.bfloat16) for _ in range(3))
    first = PhaseOptimizer(dict(plain.named_parameters()), settings)
    second = PhaseOptimizer(dict(away.named_parameters()), settings, Lane(device))
    third = PhaseOptimizer(dict(resumed.named_parameters()), settings)
    steps(plain, first, range(3))
    steps(away, second, range(3))
    for name, weight in third.weights.items():
        weight.load(second.weights[name].stored().clone())
    third.load_moments({name: tensor.clone() for name, tensor in second.moments().items()})
    steps(plain, first, range(3, 5))
    steps(away, second, range(3, 5))
    steps(resumed, third, range(3, 5))
    for other in (second, third):
        for name, weight in first.weights.items():
            assert torch.equal(weight.parameter, other.weights[name].parameter), name
            assert torch.equal(weight.stored(), other.weights[name].stored()), name
        found = other.moments()
        for name, tensor in first.moments().items():
            assert torch.equal(tensor.cpu(), found[name].cpu()), name
    large = [tensor for tensor in second.moments().values() if tensor.numel() >= 4096]
    assert all(tensor.device.type == "cpu" for tensor in large)
    assert large or rule == "adafactor"


def test_averages_are_the_same_wherever_they_are(device: torch.device) -> None:
    weights = torch.randn(13, 50, generator=torch.Generator().manual_seed(0)).to(device, torch.bfloat16)
    here, away = (Ema({"w": weights[0]}, beta=0.8, every=3, start=5, lane=lane) for lane in (None, Lane(device)))
    assert away.average["w"].device.type == "cpu"
    assert away.average["w"].data_ptr() != weights[0].data_ptr()
    for step in range(1, 13):
        for ema in (here, away):
            ema.update({"w": weights[step]}, step)
        assert torch.equal(here.average["w"].cpu(), away.average["w"])
    assert not torch.equal(away.average["w"], weights[12].float().cpu())


@pytest.mark.parametrize(
    ("run", "settings", "message"),
    [
        (StageCRun, {"offload": "weights"}, "offload: weights is for frozen weights"),
        (RunConfig, {"offload": "activations"}, "offload: activations is for Stage B and C"),
        (RunConfig, {"offload": "optimizer", "optimizer": "prodigy"}, "offload: optimizer does not go with it"),
        (LoraRun, {"offload": "all", "optimizer": "prodigy"}, "offload: all does not go with it"),
    ],
)
def test_what_can_not_be_offloaded(run: type[RunConfig], settings: dict[str, Any], message: str) -> None:
    base = config().model_dump(exclude_unset=True)
    paths = {"text_path": "t", "effnet_checkpoint_path": "e", "generator_checkpoint_path": "g"}
    own = {StageCRun: paths, LoraRun: paths | {"rank": 1}}.get(run, {})
    with pytest.raises(InputError, match=message):
        run(**(base | own | settings)).check()


def test_all_is_all_that_there_is() -> None:
    for value, expected in {"none": [], "weights": ["weights"], "all": ["weights", "optimizer", "activations"]}.items():
        own = config(offload=value)
        assert [what for what in ("weights", "optimizer", "activations") if own.offloads(what)] == expected


@pytest.mark.gpu
@pytest.mark.parametrize("fused", [False, True])
def test_a_run_on_a_gpu_ends_with_the_same_weights(
    made_up: dict[str, dict[str, Any]], tmp_path: Path, fused: bool
) -> None:
    ends: list[dict[str, Tensor]] = []
    for offload in ("none", "all"):
        own = {"experiment_id": f"{offload}-{fused}", "offload": offload, "device": "cuda", "fused_backward": fused}
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(made_up["c"] | own | {"updates": 4, "gradient_checkpointing": True}), "utf-8")
        exported = train("c", path)
        assert exported is not None
        ends.append(files.load(exported.parent / "state.safetensors"))
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []
