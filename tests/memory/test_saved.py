from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Sequence
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from littlecascade.memory import saved
from littlecascade.memory.offload import Lane
from littlecascade.memory.saved import Activations, keep_less
from littlecascade.models.stage_c import StageC

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


class Counting(Lane):
    """The copies that it was asked for."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.stored: list[Tensor] = []
        self.brought = 0

    def store(self, sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
        self.stored += targets
        super().store(sources, targets)

    def bring(self, sources: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
        self.brought += 1
        return super().bring(sources)


def loss(network: StageC, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    config = network.config
    text = torch.randn(2, 9, config.text_width, generator=generator).to(device)
    x = torch.randn(2, config.trunk.in_channels, 6, 6, generator=generator).to(device)
    conditions = network.encode_conditions(text)
    return network(x, torch.tensor([0.3, 0.8], device=device), **conditions).square().mean()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_that_were_moved_give_the_same_gradients(
    small_networks: ModuleType, monkeypatch: pytest.MonkeyPatch, device: torch.device, checkpointing: bool
) -> None:
    monkeypatch.setattr(saved, "LEAST", 256)
    network = StageC(small_networks.CONFIGS["stage_c"])
    network.load_state_dict(small_networks.weights("stage_c"))
    network.to(device).checkpointing = checkpointing
    other, lane = copy.deepcopy(network), Counting(device)
    keep_less(other, Activations(lane))
    for _ in range(2):
        loss(network, device).backward()
        loss(other, device).backward()
    for (name, one), (_, two) in zip(network.named_parameters(), other.named_parameters(), strict=True):
        assert one.grad is not None, name
        assert torch.equal(one.grad, two.grad), name
    blocks = sum(len(group) for groups in (network.down_blocks, network.up_blocks) for group in groups)
    assert len(lane.stored) > 2 * blocks
    assert all(tensor.device.type == "cpu" for tensor in lane.stored)
    weights = {parameter.shape for parameter in network.parameters() if parameter.numel() >= 256}
    assert not weights & {tensor.shape for tensor in lane.stored}  # of weights nothing is copied
    if checkpointing:  # then they are needed in the order that is expected
        assert lane.brought == len(lane.stored)


def test_without_gradients_and_after_an_error_nothing_is_moved(device: torch.device) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor, fail: bool) -> Tensor:
            if fail:
                raise ValueError("failed")
            return x.exp()

    network, lane = Broken(), Counting(device)
    keep_less(network, Activations(lane))
    x = torch.ones(saved.LEAST, device=device, requires_grad=True)
    with torch.no_grad():
        network(x, False)
    with pytest.raises(ValueError, match="failed"):
        network(x, True)
    x.exp().sum().backward()  # outside of the network
    assert lane.stored == []
    network(x, False).sum().backward()
    assert len(lane.stored) == 1
    assert torch.equal(x.grad, 2 * x.exp())


def test_a_graph_that_is_dropped_takes_what_was_moved_with_it(device: torch.device) -> None:
    network, lane = nn.Tanh(), Counting(device)
    keep_less(network, Activations(lane))
    result = network(torch.ones(saved.LEAST, device=device, requires_grad=True))
    (moved,) = lane.stored
    gone = weakref.ref(moved)
    lane.stored.clear()
    del moved, result
    lane.wait()
    assert gone() is None


def test_the_first_packer_that_has_something_is_heard() -> None:
    network, asked = nn.Tanh(), []

    def packer(name: str, gives: bool) -> Callable[[Tensor], Callable[[], Tensor] | None]:
        def pack(tensor: Tensor) -> Callable[[], Tensor] | None:
            asked.append(name)
            return (lambda: torch.full_like(tensor, 0.5)) if gives else None

        return pack

    for name, gives in (("a", False), ("b", True), ("c", True)):
        keep_less(network, packer(name, gives))
    x = torch.zeros(3, requires_grad=True)
    network(x).sum().backward()
    assert asked == ["a", "b"]
    assert x.grad.tolist() == [0.75] * 3  # 1 - 0.5 ** 2
