"""The official LoRA method, as the benchmark rebuilds it, and the path beside the matrices are one function."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

from littlecascade.adapters.deltas import LoRA
from littlecascade.adapters.injection import Deltas, Injection, Layer
from littlecascade.models.stage_c import StageC

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("lora_step")
    for name in ("lora_step", "training_memory"):
        sys.modules.pop(name, None)


def site_of(factor: str) -> str:
    """The name that a matrix has here of a factor's name in the benchmark."""
    own = factor.rsplit(".", 1)[0]
    return own.removesuffix(".weight").replace(".in_proj_weight", ".in_proj")


def test_both_ways_predict_and_learn_the_same(bench, small_networks) -> None:
    official, ours = (StageC(small_networks.CONFIGS["stage_c"]).requires_grad_(False).eval() for _ in range(2))
    for network in (official, ours):
        network.load_state_dict(small_networks.weights("stage_c", seed=0))
    factors = bench.parametrise(official)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for factor in factors.values():
            factor.copy_(0.1 * torch.randn(factor.shape, generator=generator))
    pairs = {site_of(name): name.rsplit(".", 1)[0] for name in factors}
    copies = {name: tensor.detach().clone() for name, tensor in factors.items()}
    deltas = Deltas(
        {site: LoRA(copies[f"{own}.up"], copies[f"{own}.down"], bench.ALPHA) for site, own in pairs.items()}
    )
    Injection(ours, [Layer(deltas)])
    assert len(deltas) == 2 * sum(type(module).__name__ == "FusedAttention" for module in ours.modules())
    x, text = torch.randn(2, 6, 4, 4, generator=generator), torch.randn(2, 3, 64, generator=generator)
    losses = []
    for network in (official, ours):
        prediction = network(x, torch.tensor([0.2, 0.8]), **network.encode_conditions(text))
        losses.append(prediction.square().mean())
        losses[-1].backward()
    assert torch.allclose(losses[0], losses[1], rtol=1e-4)
    for site, own in pairs.items():
        for factor in ("up", "down"):
            expected, found = factors[f"{own}.{factor}"].grad, deltas.by_site[site].get_parameter(factor).grad
            assert expected is not None
            assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
