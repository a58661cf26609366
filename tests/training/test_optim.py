from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from littlecascade.training.config import RunConfig
from littlecascade.training.ema import Ema
from littlecascade.training.optim.optimizer import PhaseOptimizer
from littlecascade.training.optim.rules import is_hidden_matrix, orthogonalise
from littlecascade.training.optim.schedule import lr_scale


def config(**values: Any) -> RunConfig:
    base = {"experiment_id": "x", "lr": 0.1, "batch_size": 4, "updates": 100, "webdataset_path": "none"}
    return RunConfig(**(base | values))


def parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    return dict(module.named_parameters())


def step(optimizer: PhaseOptimizer, lr_scale: float = 1.0, update: int = 0) -> float:
    """Takes in the gradients that the parameters have."""
    gradients = {name: weight.parameter.grad for name, weight in optimizer.weights.items()}
    optimizer.begin(update, lr_scale)
    for name, gradient in gradients.items():
        optimizer.weights[name].parameter.grad = gradient
    return optimizer.step()


@pytest.mark.parametrize(
    ("settings", "update", "expected"),
    [
        ({}, 0, 1.0),
        ({"warmup_updates": 10}, 0, 0.1),
        ({"warmup_updates": 10}, 4, 0.5),
        ({"warmup_updates": 10}, 9, 1.0),
        ({"lr_schedule": "linear"}, 25, 0.75),
        ({"lr_schedule": "linear", "warmup_updates": 50}, 24, 0.5 * 0.76),
        ({"lr_schedule": "cosine"}, 50, 0.5),
        ({"lr_schedule": "cosine"}, 75, 0.5 - math.sqrt(0.125)),
        ({"lr_schedule": "cosine"}, 100, 0.01),
    ],
)
def test_the_learning_rate_by_hand(settings: dict[str, Any], update: int, expected: float) -> None:
    assert lr_scale(update, config(**settings, updates=100), 100) == pytest.approx(expected)


def test_the_learning_rate_of_a_run_of_fewer_updates_than_its_configuration_has() -> None:
    """It decays to the end of those, and warms up over a tenth of them."""
    own = config(warmup_updates=30, updates=1000, lr_schedule="linear")
    rates = [lr_scale(update, own, 100) for update in range(100)]
    assert rates[:10] == pytest.approx([(update + 1) / 10 * (1 - update / 100) for update in range(10)])
    assert rates[10:] == pytest.approx([1 - update / 100 for update in range(10, 100)])


def test_one_step_is_torchs_adamw_with_decay_on_matrices_only() -> None:
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    other = copy.deepcopy(module)
    optimizer = PhaseOptimizer(parameters(module), config(weight_decay=0.5, max_grad_norm=1e9))
    groups = [{"params": [other.weight], "weight_decay": 0.5}, {"params": [other.bias], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=0.1 * 0.5, betas=(0.9, 0.95))
    for _ in range(3):
        for network in (module, other):
            network.zero_grad()
            network(torch.eye(3)).square().sum().backward()
        step(optimizer, 0.5)
        reference.step()
    assert torch.allclose(module.weight, other.weight, atol=1e-7)
    assert torch.allclose(module.bias, other.bias, atol=1e-7)


def test_gradients_are_clipped_to_the_norm() -> None:
    module = nn.Linear(2, 1, bias=False)
    optimizer = PhaseOptimizer(parameters(module), config(max_grad_norm=2.5))
    module.weight.grad = torch.tensor([[3.0, 4.0]])
    assert step(optimizer) == pytest.approx(5.0)
    assert torch.allclose(optimizer.moments()["exp_avg.weight"], 0.1 * torch.tensor([[1.5, 2.0]]), atol=1e-6)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(poison: float) -> None:
    module = nn.Linear(2, 1)
    before = copy.deepcopy(module.state_dict())
    optimizer = PhaseOptimizer(parameters(module), config())
    module.weight.grad, module.bias.grad = torch.tensor([[1.0, poison]]), torch.ones(1)
    assert not math.isfinite(step(optimizer))
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert optimizer.moments() == {}


def test_masters_keep_updates_that_bfloat16_would_lose() -> None:
    module = nn.Linear(1, 1, bias=False).bfloat16()
    module.weight.data.fill_(1.0)  # bfloat16's next smaller number is 0.996
    optimizer = PhaseOptimizer(parameters(module), config(lr=1e-4, weight_decay=0.0))
    assert module.weight - 1e-4 == 1
    for _ in range(100):
        module.weight.grad = torch.ones_like(module.weight)
        step(optimizer)
    assert optimizer.weights["weight"].read().item() == pytest.approx(1 - 100e-4, abs=1e-5)
    assert module.weight.item() == torch.tensor(0.99).bfloat16().item()


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8)])
def test_orthogonalise_flattens_the_singular_values_and_keeps_the_singular_vectors(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=generator)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    matrix = u @ torch.diag(s.clamp(min=0.1 * s.max())) @ vh  # what is far smaller takes more than five iterations
    result = orthogonalise(matrix)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.6
    assert values.max() < 1.3
    aligned = u.T @ result @ vh.T
    assert (aligned - torch.diag(aligned.diagonal())).abs().max() < 0.1


def test_muon_moves_matrices_as_far_as_adamw_would() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 32), nn.Conv2d(8, 16, 3))
    before = copy.deepcopy(module.state_dict())
    optimizer = PhaseOptimizer(parameters(module), config(optimizer="muon", lr=0.01, weight_decay=0.0))
    for parameter in module.parameters():
        parameter.grad = torch.randn_like(parameter)
    step(optimizer)
    moved = {
        name: (tensor - before[name]).square().mean().sqrt() / 0.01 for name, tensor in module.state_dict().items()
    }
    assert 0.15 < moved["0.weight"] < 0.25  # Liu et al. 2025: AdamW's updates have a root mean square of 0.2 to 0.4
    assert 0.15 < moved["1.weight"] < 0.25
    assert moved["0.bias"] == pytest.approx(1.0, abs=0.01)  # AdamW's first step
    assert set(optimizer.moments()) >= {"momentum_buffer.0.weight", "exp_avg.0.bias"}


def test_muon_leaves_edges_and_vectors_to_adamw() -> None:
    names = {"blocks.1.weight": (8, 4), "token_embedding.weight": (8, 4), "clf.1.weight": (8, 4), "norm.weight": (8,)}
    names |= {"depthwise.weight": (8, 1, 3, 3), "gain.weight": (1, 8)}
    chosen = [name for name, shape in names.items() if is_hidden_matrix(name, torch.zeros(shape))]
    assert chosen == ["blocks.1.weight"]


SETTINGS = [
    *({"optimizer": name} for name in ("adamw", "adamw8bit", "adafactor", "muon", "prodigy")),
    *({"optimizer": name, "master_weights": "none"} for name in ("adamw", "adamw8bit", "adafactor", "muon")),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda given: "-".join(given.values()))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_moments_and_weights_are_all_there_is_to_go_on(settings: dict[str, str], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = nn.Linear(96, 64).to(dtype)
    given = config(**settings)
    first = PhaseOptimizer(parameters(module), given)
    gradients = torch.randn(4, 64, 96).to(dtype)

    def steps(network: nn.Linear, own: PhaseOptimizer, chosen: range) -> None:
        for number in chosen:
            own.begin(number, 1.0)
            network.weight.grad, network.bias.grad = gradients[number].clone(), gradients[number, :, 0].clone()
            own.step()

    steps(module, first, range(2))
    twin = nn.Linear(96, 64).to(dtype)
    second = PhaseOptimizer(parameters(twin), given)
    for name, weight in second.weights.items():
        weight.load(first.weights[name].stored().clone())
    second.load_moments({name: tensor.clone() for name, tensor in first.moments().items()})
    steps(module, first, range(2, 4))
    steps(twin, second, range(2, 4))
    for name, weight in second.weights.items():
        assert torch.equal(weight.parameter, first.weights[name].parameter)
        assert torch.equal(weight.stored(), first.weights[name].stored())
    assert all(torch.equal(own, second.moments()[name]) for name, own in first.moments().items())


def test_averages_against_a_loop_by_hand() -> None:
    weights = torch.randn(13, 5, generator=torch.Generator().manual_seed(0)).double().float()
    ema = Ema({"w": weights[0]}, beta=0.8, every=3, start=5)
    expected = weights[0].double()
    for step in range(1, 13):
        ema.update({"w": weights[step]}, step)
        if step <= 5:
            expected = weights[step].double()
        elif step % 3 == 0:
            expected = 0.8 * expected + 0.2 * weights[step].double()
        assert torch.allclose(ema.average["w"].double(), expected, atol=1e-6), step


def test_averages_that_are_never_but_the_weights_are_not_kept() -> None:
    weights = {"w": torch.ones(2)}
    ema = Ema(weights, beta=0.0, every=1, start=3)
    assert ema.average["w"] is weights["w"]
    weights["w"] += 1
    ema.update(weights, 7)
    assert ema.average["w"].tolist() == [2, 2]


def test_averages_are_float32_and_their_own() -> None:
    weights = {"w": torch.ones(2, dtype=torch.bfloat16)}
    ema = Ema(weights, beta=0.999, every=1, start=0)
    weights["w"] += 1
    assert ema.average["w"].tolist() == [1, 1]
    ema.update(weights, 1)
    assert ema.average["w"].tolist() == pytest.approx([1.001, 1.001])
