from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from littlecascade.memory.int8 import is_matrix, quantise
from littlecascade.memory.residence import Residence
from littlecascade.models.stage_c import StageC
from littlecascade.presets import TINY

CPU = torch.device("cpu")
CONFIG = replace(TINY.stage_c, trunk=replace(TINY.stage_c.trunk, widths=(96, 96), heads=(2, 2), cond_width=64))


class Counted(Mapping[str, Tensor]):
    """Weights that say how often each was read, and which of what they gave is still in memory."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.reads = dict.fromkeys(tensors, 0)
        self.given: list[weakref.ref[np.ndarray]] = []

    def __getitem__(self, name: str) -> Tensor:
        self.reads[name] += 1
        array = self.tensors[name].numpy().copy()  # lives as long as a tensor with its memory
        self.given.append(weakref.ref(array))
        return torch.from_numpy(array)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def alive(self) -> int:
        return sum(reference() is not None for reference in self.given)


@pytest.fixture(scope="module")
def original() -> StageC:
    network = StageC(CONFIG)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 100
        nn.init.normal_(parameter, std=fan**-0.5, generator=generator)
    return network.eval().requires_grad_(False)


def placed(original: StageC, residence: Residence) -> tuple[StageC, Counted]:
    with torch.device("meta"):
        network = StageC(CONFIG)
    weights = Counted(original.state_dict())
    return residence.place(network, weights, original.state_dict()), weights


def prediction(network: StageC) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(2, 5, CONFIG.text_width, generator=generator)
    x = torch.randn(2, 16, 5, 6, generator=generator)
    return network(x, torch.tensor([0.2, 0.9]), **network.encode_conditions(text))


@pytest.mark.parametrize("streamed", [False, True])
def test_where_weights_are_changes_nothing(original: StageC, streamed: bool) -> None:
    network, weights = placed(original, Residence(CPU, torch.float32, streamed=streamed))
    for _ in range(2):
        assert torch.equal(prediction(network), prediction(original))
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not network.training
    inside = {name: count for name, count in weights.reads.items() if "_blocks." in name}
    assert set(inside.values()) == ({2} if streamed else {1})


def test_streamed_weights_are_in_memory_while_their_block_runs(original: StageC) -> None:
    network, weights = placed(original, Residence(CPU, torch.float32, streamed=True))
    resident = weights.alive
    alive: list[int] = []
    blocks = [block for group in network.down_blocks for block in group]
    for block in blocks:
        block.register_forward_pre_hook(lambda *_: alive.append(weights.alive - resident))
    prediction(network)
    assert alive == [len(list(block.parameters())) for block in blocks]
    assert weights.alive == resident
    assert all(parameter.is_meta for parameter in blocks[0].parameters())


def test_weights_are_put_back_after_an_error(original: StageC) -> None:
    network, _ = placed(original, Residence(CPU, torch.float32, streamed=True))
    with pytest.raises(RuntimeError):
        network.down_blocks[0][0](torch.zeros(1, 3, 3, 7), time=torch.zeros(1), text=torch.zeros(1))
    assert all(parameter.is_meta for parameter in network.down_blocks[0][0].parameters())
    assert torch.equal(prediction(network), prediction(original))


@pytest.mark.parametrize("streamed", [False, True])
def test_eight_bits_are_near_and_read_once(original: StageC, streamed: bool) -> None:
    network, weights = placed(original, Residence(CPU, torch.float32, int8=True, streamed=streamed))
    expected = prediction(original)
    error = prediction(network) - expected
    assert 0 < float(error.norm() / expected.norm()) < 0.02
    assert weights.reads["down_blocks.0.0.channelwise.0.weight"] == 1
    matrices = {name: t for name, t in original.state_dict().items() if "_blocks." in name and is_matrix(t)}
    assert len(matrices) > 30
    assert weights.alive <= len(weights) - len(matrices)  # of those only the eight bits are kept


def test_the_error_of_eight_bits_is_half_a_step_of_its_row() -> None:
    tensor = torch.randn(50, 7, 3) * torch.logspace(-6, 6, 50)[:, None, None]
    kept = quantise(tensor)
    assert kept.values.dtype == torch.int8
    step = tensor.abs().amax((1, 2), keepdim=True) / 127
    assert ((kept.restore(torch.float32) - tensor).abs() <= 0.5001 * step).all()
    assert torch.equal(quantise(torch.zeros(3, 4)).restore(torch.float32), torch.zeros(3, 4))


def test_some_weights_may_stay_wide(original: StageC) -> None:
    with torch.device("meta"):
        network = StageC(CONFIG)
    name = "up_blocks.0.0.channelwise.0.weight"
    residence = Residence(CPU, torch.bfloat16)
    residence.place(network, original.state_dict(), original.state_dict(), frozenset({name}))
    kinds = {own: parameter.dtype for own, parameter in network.named_parameters()}
    assert kinds.pop(name) == torch.float32
    assert set(kinds.values()) == {torch.bfloat16}
