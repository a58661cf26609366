"""Where the frozen weights of a network are while it works: on its device, there in fewer bits, or brought to it block
by block.

A block is a module whose class says `streams = True`. What lies outside of blocks is always on the device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from littlecascade.checkpoint.lazy import LazyTensors
from littlecascade.memory import int8, nf4
from littlecascade.memory.measure import give_back
from littlecascade.memory.offload import Ahead, Foresight, Lane
from littlecascade.memory.saved import keep_less

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Packing:
    """A way to keep matrices in fewer bits.

    pack: makes what `kind` is, tensors that can be restored to a matrix. fits: whether it is for a tensor.
    """

    kind: type[int8.Int8] | type[nf4.Nf4]
    pack: Callable[[Tensor], int8.Int8 | nf4.Nf4]
    fits: Callable[[Tensor], bool]


PACKINGS: Mapping[str, Packing] = {
    "int8": Packing(int8.Int8, int8.quantise, int8.fits),
    "nf4": Packing(nf4.Nf4, nf4.quantise, nf4.fits),
}
"""By name."""


@dataclass(frozen=True)
class Residence:
    """How the frozen weights of networks are kept.

    dtype: what is computed in. packing: a key of `PACKINGS`, by which blocks' matrices are kept; they are made anew in
    `dtype` whenever their block runs. streamed: blocks' weights stay where they come from, and go to the device
    whenever their block runs, on a GPU while the block before it runs. held: what is streamed lies in the machine's
    memory, and is not read from where it comes from each time.

    Gradients flow through such a network to what hooks have put beside its weights. Of the weights that were made for a
    block, autograd keeps none for the backward pass: they are made again, one at a time where they are needed, or
    block by block where blocks are recomputed.
    """

    device: torch.device
    dtype: torch.dtype
    packing: str | None = None
    streamed: bool = False
    held: bool = False

    @property
    def whole(self) -> bool:
        """Whether all weights stay on the device as they are computed with."""
        return self.packing is None and not self.streamed

    def source(
        self, outline: Mapping[str, Tensor], read: Mapping[str, Tensor], mapped: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """Weights of a file for `place`: mapped into memory where that saves a copy, read where it would make one.

        outline: all of them without data. read, mapped: the same in either way, each when it is asked for.
        """

        def choose(tensor: Tensor) -> Mapping[str, Tensor]:
            if self.device.type == "cpu":
                return mapped if self.whole and tensor.dtype == self.dtype else read
            return mapped if self.streamed and not self.held else read

        return LazyTensors({name: partial(choose(tensor).__getitem__, name) for name, tensor in outline.items()})

    def place(
        self,
        network: Network,
        weights: Mapping[str, Tensor],
        outline: Mapping[str, Tensor],
        wide: Collection[str] = (),
    ) -> Network:
        """Gives a network that was built on the meta device its weights, and returns it in evaluation mode.

        weights: those that the network has, each read when it is asked for, which happens once, or once for each run
        of its block where these are streamed and not held. outline: the same without data. wide: those to compute with
        in float32.
        """
        blocks = {} if self.whole else _blocks(network)
        owners = {name: block for block in blocks for name in outline if name.startswith(f"{block}.")}

        def kind(name: str) -> torch.dtype:
            own = outline[name].dtype
            return own if not own.is_floating_point else torch.float32 if name in wide else self.dtype

        resident = {name: weights[name].to(self.device, kind(name)) for name in outline if name not in owners}
        network.load_state_dict(resident, strict=False, assign=True)
        if blocks:
            kept = {name: self._keep(name, weights, outline, kind(name)) for name in owners}
            Carrier(network, blocks, kept, self)
        give_back()
        return network.eval().requires_grad_(False)

    def _keep(
        self, name: str, weights: Mapping[str, Tensor], outline: Mapping[str, Tensor], dtype: torch.dtype
    ) -> Kept:
        packing = None if self.packing is None else PACKINGS[self.packing]
        if packing is not None and packing.fits(outline[name]):
            packed = self._settle(packing.pack(weights[name].to(self.device)))
            return Kept(lambda: packed, lambda tensors: packing.kind(*tensors).restore(dtype), len(packed))
        if self.streamed and not self.held:
            return Kept(lambda: [weights[name]], lambda tensors: tensors[0].to(dtype))
        there = self._settle([weights[name].to(self.device, dtype)])
        return Kept(lambda: there, lambda tensors: tensors[0])

    def _settle(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Where they are kept."""
        return [Lane(self.device).home(tensor) for tensor in tensors] if self.streamed else tensors


class Kept(NamedTuple):
    """A weight of a block. read: what is kept of it, `count` tensors where they lie. make: the weight of those, once
    they are on the device.
    """

    read: Callable[[], Sequence[Tensor]]
    make: Callable[[Sequence[Tensor]], Tensor]
    count: int = 1


class Carrier:
    """Makes the weights of a network's blocks before each of their runs, and drops them after it.

    In between the parameters have no data. It is the `carrier` of its network. kept: by parameter.
    """

    def __init__(
        self, network: nn.Module, blocks: Mapping[str, nn.Module], kept: Mapping[str, Kept], residence: Residence
    ) -> None:
        self._kept, self._device = kept, residence.device
        self._ahead: Ahead[str] | None = None
        if residence.streamed and residence.device.type != "cpu":
            self._ahead = Ahead(Lane(residence.device), self._read)
        self._foresight: Foresight[str] = Foresight()
        self._names = {block: [name for name in kept if name.startswith(f"{block}.")] for block in blocks}
        self._empty = {name: _without_data(network.get_parameter(name)) for name in kept}
        self._places = {name: _owner(network, name) for name in kept}
        self._made: dict[int, tuple[str, int]] = {}
        """By the storages of the block at work: the parameter, and where in its storage it begins."""
        for name, block in blocks.items():
            block.register_forward_pre_hook(partial(self._bring, name))
            block.register_forward_hook(partial(self._drop, name), always_call=True)
            self._drop(name)
        keep_less(network, self._pack)
        network.carrier = self  # pyright: ignore[reportArgumentType]

    def weight(self, name: str) -> Tensor:
        """A parameter of a block as it is computed with, made for the caller."""
        kept = self._kept[name]
        return kept.make([tensor.to(self._device, non_blocking=True) for tensor in kept.read()])

    def __contains__(self, name: str) -> bool:
        return name in self._kept

    def _read(self, block: str) -> list[Tensor]:
        return [tensor for name in self._names[block] for tensor in self._kept[name].read()]

    def _make(self, block: str) -> Iterator[Tensor]:
        """Of each parameter of a block."""
        if self._ahead is None:
            yield from map(self.weight, self._names[block])
            return
        tensors = deque(self._ahead.take(block))
        self._ahead.expect(self._foresight.see(block))
        for name in self._names[block]:
            kept = self._kept[name]
            yield kept.make([tensors.popleft() for _ in range(kept.count)])

    def _bring(self, block: str, *_: object) -> None:
        for name, weight in zip(self._names[block], self._make(block), strict=True):
            if _storage(weight) in self._made:  # as a file may have it
                weight = weight.clone()
            owner, leaf = self._places[name]
            owner._parameters[leaf] = nn.Parameter(weight, requires_grad=False)
            self._made[_storage(weight)] = name, int(weight.storage_offset())

    def _drop(self, block: str, *_: object) -> None:
        for name in self._names[block]:
            owner, leaf = self._places[name]
            owner._parameters[leaf] = self._empty[name]
        self._made.clear()

    def _pack(self, tensor: Tensor) -> Callable[[], Tensor] | None:
        """For a weight that was made for the block at work, or a part of it: what makes it again."""
        if _storage(tensor) not in self._made:
            return None
        name, start = self._made[_storage(tensor)]
        shape, strides, offset = tensor.shape, tensor.stride(), tensor.storage_offset() - start

        def again() -> Tensor:
            weight = self.weight(name)
            return weight.as_strided(shape, strides, weight.storage_offset() + offset)

        return again


def read_weight(network: nn.Module, name: str) -> Tensor:
    """A parameter of a network as it is computed with, wherever it is kept."""
    carrier: Any = getattr(network, "carrier", None)
    return carrier.weight(name) if carrier is not None and name in carrier else network.get_parameter(name)


def _without_data(parameter: nn.Parameter) -> nn.Parameter:
    """On the meta device, and with no storage there that would look as if it took memory."""
    return nn.Parameter(parameter.new_empty(()).expand(parameter.shape), requires_grad=False)


def _storage(tensor: Tensor) -> int:
    """Of a tensor and its views, and of nothing else as long as one of them lives."""
    return tensor.untyped_storage()._cdata


def _blocks(network: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in network.named_modules() if getattr(module, "streams", False)}


def _owner(network: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return network.get_submodule(path), leaf
