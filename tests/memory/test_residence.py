from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from littlecascade.adapters.injection import Deltas, Injection, Layer
from littlecascade.memory.int8 import fits, quantise
from littlecascade.memory.residence import Residence, read_weight
from littlecascade.models.stage_c import StageC
from littlecascade.presets import TINY

CPU = torch.device("cpu")
CONFIG = replace(TINY.stage_c, trunk=replace(TINY.stage_c.trunk, widths=(128, 128), heads=(2, 2), cond_width=64))


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
    generator, device = torch.Generator().manual_seed(1), network.get_parameter("clf.1.weight").device
    text = torch.randn(2, 5, CONFIG.text_width, generator=generator).to(device)
    x = torch.randn(2, 16, 5, 6, generator=generator).to(device)
    return network(x, torch.tensor([0.2, 0.9], device=device), **network.encode_conditions(text))


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
    network, weights = placed(original, Residence(CPU, torch.float32, packing="int8", streamed=streamed))
    expected = prediction(original)
    error = prediction(network) - expected
    assert 0 < float(error.norm() / expected.norm()) < 0.02
    assert weights.reads["down_blocks.0.0.channelwise.0.weight"] == 1
    matrices = {name: t for name, t in original.state_dict().items() if "_blocks." in name and fits(t)}
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


def gradients(network: StageC) -> dict[str, Tensor]:
    """Of LoRAs beside all matrices of a network, after one pass through it."""
    deltas = Deltas.create(network, ["re:."], rank=2, generator=torch.Generator().manual_seed(2))
    for parameter in deltas.parameters():
        nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(len(parameter)))
    with Injection(network, [Layer(deltas)]):
        prediction(network).square().mean().backward()
    return {name: parameter.grad for name, parameter in deltas.named_parameters()}


WAYS = [
    {"streamed": True},
    {"streamed": True, "held": True},
    {"packing": "int8"},
    {"packing": "nf4"},
    {"packing": "nf4", "streamed": True, "held": True},
]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way)))
def test_gradients_are_those_of_weights_that_stay(original: StageC, way: dict[str, Any], checkpointing: bool) -> None:
    """Bit for bit: the network beside it has, as its own, what packing leaves of the weights."""
    network, _ = placed(original, Residence(CPU, torch.float32, **way))
    left = {name: read_weight(network, name) for name in original.state_dict()}
    whole, _ = placed(original, Residence(CPU, torch.float32))
    whole.load_state_dict(left)
    network.checkpointing = checkpointing
    found, expected = gradients(network), gradients(whole)
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert all(parameter.is_meta for parameter in network.down_blocks[0][0].parameters())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_for_the_backward_pass_no_weight_is_kept(original: StageC, checkpointing: bool) -> None:
    network, weights = placed(original, Residence(CPU, torch.float32, streamed=True))
    network.checkpointing = checkpointing
    resident, alive = weights.alive, []
    deltas = Deltas.create(network, ["re:."], rank=2)
    for delta in deltas.parameters():
        delta.register_post_accumulate_grad_hook(lambda _: alive.append(weights.alive - resident))
    with Injection(network, [Layer(deltas)]):
        result = prediction(network)
        assert weights.alive == resident
        result.square().mean().backward()
    most = max(len(list(block.parameters())) for group in network.down_blocks for block in group)
    assert max(alive) <= (most if checkpointing else 1)
    assert weights.alive == resident


@pytest.mark.parametrize("packing", ["int8", "nf4"])
def test_while_weights_are_packed_one_matrix_is_in_memory(original: StageC, packing: str) -> None:
    class Watched(Counted):
        def __getitem__(self, name: str) -> Tensor:
            tensor = super().__getitem__(name)
            arrays = [array for reference in self.given if (array := reference()) is not None]
            most.append(sum(array.ndim == 2 and array.size >= 4096 for array in arrays))
            return tensor

    most: list[int] = []
    with torch.device("meta"):
        network = StageC(CONFIG)
    weights = Watched(original.state_dict())
    Residence(CPU, torch.float32, packing).place(network, weights, original.state_dict())
    outside = 3  # those that map conditions are not in blocks
    assert max(most) == outside + 1


def test_weights_may_share_their_memory(original: StageC) -> None:
    """As tensors of a file may; here every linear layer's bias is a part of its weight."""
    weights = dict(original.state_dict())
    names = [name for name in weights if "_blocks." in name and name.endswith(".weight") and weights[name].ndim == 2]
    for name in names:
        bias = name.replace(".weight", ".bias")
        weights[bias] = weights[name].flatten()[7 : 7 + len(weights[bias])]
    with torch.device("meta"):
        network, whole = StageC(CONFIG), StageC(CONFIG)
    Residence(CPU, torch.float32, streamed=True).place(network, weights, weights)
    Residence(CPU, torch.float32).place(whole, weights, weights)
    found, expected = gradients(network), gradients(whole)
    assert len(names) > 20
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way)))
def test_a_network_that_is_dropped_is_gone_at_once(original: StageC, way: dict[str, Any]) -> None:
    network, _ = placed(original, Residence(CPU, torch.float32, **way))
    gradients(network)
    gone = weakref.ref(network.down_blocks[0][0].channelwise[0])
    gc.disable()
    try:
        del network
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.gpu
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way)))
def test_on_a_gpu_gradients_are_those_of_weights_that_stay(
    original: StageC, way: dict[str, Any], checkpointing: bool
) -> None:
    device = torch.device("cuda")
    network, _ = placed(original, Residence(device, torch.float32, **way))
    left = {name: read_weight(network, name) for name in original.state_dict()}
    whole, _ = placed(original, Residence(device, torch.float32))
    whole.load_state_dict(left)
    network.checkpointing = checkpointing
    expected = gradients(whole)
    for _ in range(3):  # from the second pass on weights come ahead of their use
        found = gradients(network)
        assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
