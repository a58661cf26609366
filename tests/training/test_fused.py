"""Updates during the backward pass: what they have in common with those after it, and what they have not."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from littlecascade.errors import InputError
from littlecascade.models.stage_c import StageC
from littlecascade.training.config import RunConfig
from littlecascade.training.optim.optimizer import PhaseOptimizer
from littlecascade.training.runstate import RunFolder

RULES = pytest.mark.parametrize("rule", ["adamw", "adamw8bit", "adafactor", "muon"])


def config(**values: Any) -> RunConfig:
    base = {"experiment_id": "x", "lr": 0.01, "batch_size": 4, "updates": 9, "webdataset_path": "none"}
    return RunConfig(**(base | values))


def network(small_networks: ModuleType) -> StageC:
    """With levels that are run twice, so that weights have gradients from several places."""
    made = StageC(small_networks.CONFIGS["stage_c"])
    made.load_state_dict(small_networks.weights("stage_c"))
    return made


def loss(made: StageC) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    conditions = made.encode_conditions(torch.randn(2, 3, 64, generator=generator))
    x = torch.randn(2, 6, 6, 6, generator=generator)
    return (made(x, torch.tensor([0.9, 0.3]), **conditions) - x).square().mean()


def train(made: StageC, settings: RunConfig, steps: int = 3) -> list[float]:
    """Returns the norms of the gradients."""
    optimizer = PhaseOptimizer(dict(made.named_parameters()), settings)
    norms: list[float] = []
    for step in range(steps):
        optimizer.begin(step, 1.0)
        optimizer.backward(loss(made))
        norms.append(optimizer.step())
    return norms


@RULES
@pytest.mark.parametrize("checkpointing", [False, True])
def test_where_nothing_is_clipped_the_same_weights(small_networks: ModuleType, rule: str, checkpointing: bool) -> None:
    plain, fused = network(small_networks), network(small_networks)
    fused.checkpointing = checkpointing
    norms = train(plain, config(optimizer=rule, max_grad_norm=1e9))
    again = train(fused, config(optimizer=rule, max_grad_norm=1e9, fused_backward=True))
    assert again == pytest.approx(norms, rel=1e-6)
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, fused.get_parameter(name)), name


def test_no_more_than_a_few_gradients_are_there_at_once(small_networks: ModuleType) -> None:
    made = network(small_networks)
    sizes: list[int] = []

    def count(_parameter: Tensor) -> None:
        sizes.append(sum(own.grad.numel() for own in made.parameters() if own.grad is not None))

    for parameter in made.parameters():
        parameter.register_post_accumulate_grad_hook(count)  # runs before the optimizer's
    train(made, config(fused_backward=True), steps=1)
    assert len(sizes) == len(list(made.parameters()))
    assert max(sizes) <= 2 * max(parameter.numel() for parameter in made.parameters())


def test_each_gradient_is_clipped_by_itself() -> None:
    module = nn.Linear(2, 1)
    optimizer = PhaseOptimizer(dict(module.named_parameters()), config(fused_backward=True, max_grad_norm=2.5))
    optimizer.begin(0, 1.0)
    optimizer.backward((module.weight * torch.tensor([[3.0, 4.0]])).sum() + 2 * module.bias.sum())
    assert optimizer.step() == pytest.approx(math.hypot(5, 2))
    torch.testing.assert_close(optimizer.moments()["exp_avg.weight"], 0.1 * torch.tensor([[1.5, 2.0]]))
    torch.testing.assert_close(optimizer.moments()["exp_avg.bias"], 0.1 * torch.tensor([2.0]))


def test_from_the_first_gradient_that_is_not_finite_on_nothing_changes() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    before = copy.deepcopy(module.state_dict())
    optimizer = PhaseOptimizer(dict(module.named_parameters()), config(fused_backward=True))

    def poison(gradient: Tensor) -> Tensor:
        return gradient * math.nan

    hidden = module[1](module[0](torch.ones(2, 3)))
    hidden.register_hook(poison)
    optimizer.begin(0, 1.0)
    optimizer.backward(module[2](hidden).square().sum())
    assert not math.isfinite(optimizer.step())
    changed = {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"2.weight", "2.bias"}  # they came before it
    assert {name.split(".", 1)[1] for name in optimizer.moments()} == changed
    optimizer.begin(1, 1.0)
    optimizer.backward(module(torch.ones(2, 3)).square().sum())
    assert math.isfinite(optimizer.step())


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_changes_nothing(toy: ModuleType, tmp_path: Path, poison: float) -> None:
    given = toy.config(tmp_path, updates=1, fused_backward=True)
    RunFolder(given.folder).open({})
    task = toy.ToyTask(given)
    before = copy.deepcopy(task.network.state_dict())
    task.spoil = lambda call, value: value * poison
    trainer = toy.Trainer(task, given, RunFolder(given.folder))
    trainer.run()
    assert trainer.skipped == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.network.state_dict().items())


def test_the_loss_of_another_phase_updates_nothing(toy: ModuleType, tmp_path: Path) -> None:
    """As a discriminator has gradients from the loss of the network that it judges."""
    given = toy.config(tmp_path, updates=1, fused_backward=True)
    RunFolder(given.folder).open({})
    task = toy.ToyTask(given)
    task.spoil = lambda call, value: value + task.judge(torch.ones(1, 6)).sum()
    before = copy.deepcopy(task.judge.state_dict())
    toy.Trainer(task, given, RunFolder(given.folder)).run()  # of one update, in which the second phase has no part
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.judge.state_dict().items())
    assert all(parameter.grad is None for parameter in task.judge.parameters())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"fused_backward": True, "grad_accum_steps": 2}, r"none to add grad_accum_steps 2 .* batch_size to 2"),
        ({"fused_backward": True, "optimizer": "prodigy"}, r"fused_backward: true does not go with it"),
        ({"master_weights": "none", "optimizer": "prodigy"}, r"master_weights: none does not go with it"),
    ],
)
def test_what_does_not_go_together_is_told(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        config(**settings).check()
