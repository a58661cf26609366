from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from littlecascade.adapters.deltas import KINDS, Delta
from littlecascade.adapters.injection import Deltas
from littlecascade.conditioning.clip import TextTower
from littlecascade.conditioning.tokenizer import ClipTokenizer, train

WORDS = ["a dog, a dogma and dogged snow", "a snail, snails and a snailish cat", "the red apple of a dogma"]


@pytest.fixture
def stage_c(small_networks: ModuleType) -> nn.Module:
    """A small Stage C with made-up weights."""
    return _filled(small_networks, "stage_c")


@pytest.fixture
def stage_b(small_networks: ModuleType) -> nn.Module:
    return _filled(small_networks, "stage_b")


@pytest.fixture
def tower(small_networks: ModuleType) -> nn.Module:
    """A text tower whose table has as many vectors as `tokenizer` has tokens."""
    config = small_networks.TextConfig(64, 2, 1, 12, vocab_size=556, positions=12)
    tower = TextTower(config)
    tower.load_state_dict(small_networks.weights("text", config))
    return tower.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tokenizer() -> ClipTokenizer:
    return train([text for text in WORDS for _ in range(20)], 556)


def _filled(small_networks: ModuleType, role: str) -> nn.Module:
    network = small_networks.build(role)
    network.load_state_dict(small_networks.weights(role))
    return network.eval().requires_grad_(False)


@pytest.fixture
def predict() -> Callable[[nn.Module], Tensor]:
    """What a network or tower gives for a fixed input of two rows."""

    def run(network: nn.Module) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        name = type(network).__name__
        if name == "TextTower":
            return network(torch.randint(0, 500, (2, 9), generator=generator)).hidden
        config = network.config
        time = torch.tensor([0.8, 0.1])
        x = torch.randn(2, config.trunk.in_channels, 4, 4, generator=generator)
        pooled = torch.randn(2, 1, config.pooled_width, generator=generator)
        if name == "StageB":
            effnet = torch.randn(2, config.effnet_channels, 2, 2, generator=generator)
            return network(x, time, **network.encode_conditions(effnet, pooled, size=(4, 4)))
        text = torch.randn(2, 5, config.text_width, generator=generator)
        return network(x, time, **network.encode_conditions(text, pooled))

    return run


@pytest.fixture
def trained() -> Callable[..., Deltas]:
    """Makes changes of a kind, with made-up factors in place of those that start at zero."""

    def make(network: nn.Module, kind: str = "lora", seed: int = 0, **options: object) -> Deltas:
        generator = torch.Generator().manual_seed(seed)
        deltas = Deltas.create(network, **{"kind": kind, "rank": 3, "alpha": 2.0, "generator": generator, **options})
        for delta in deltas.by_site.values():
            fill(delta, generator)
        return deltas.requires_grad_(False)

    return make


def fill(delta: Delta, generator: torch.Generator) -> None:
    for name, parameter in delta.named_parameters():
        if name == "magnitude":
            parameter.data *= 1 + 0.3 * torch.rand(parameter.shape, generator=generator)
        else:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of change."""
    return request.param
