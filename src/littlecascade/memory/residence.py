"""Where the weights of a network are while it works: on its device, there in 8 bits, or brought block by block.

A block is a module whose class says `streams = True`. What lies outside of blocks is always on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from littlecascade.memory.int8 import is_matrix, quantise
from littlecascade.memory.measure import give_back

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Residence:
    """How the weights of networks are kept.

    dtype: what is computed in. int8: blocks' matrices are kept in 8 bits, and made anew in `dtype` whenever their block
    runs. streamed: blocks' weights stay where they come from, and go to the device whenever their block runs.
    """

    device: torch.device
    dtype: torch.dtype
    int8: bool = False
    streamed: bool = False

    @property
    def whole(self) -> bool:
        """Whether all weights stay on the device as they are computed with."""
        return not (self.int8 or self.streamed)

    def place(
        self,
        network: Network,
        weights: Mapping[str, Tensor],
        outline: Mapping[str, Tensor],
        wide: Collection[str] = (),
    ) -> Network:
        """Gives a network that was built on the meta device its weights, and returns it in evaluation mode.

        weights: those that the network has, each read when it is asked for, which happens once, or once for each run
        of its block where these are streamed. outline: the same without data. wide: those to compute with in float32.
        """
        blocks = {} if self.whole else _blocks(network)
        owners = {name: block for block in blocks for name in outline if name.startswith(f"{block}.")}

        def kind(name: str) -> torch.dtype:
            own = outline[name].dtype
            return own if not own.is_floating_point else torch.float32 if name in wide else self.dtype

        resident = {name: weights[name].to(self.device, kind(name)) for name in outline if name not in owners}
        network.load_state_dict(resident, strict=False, assign=True)
        for block, module in blocks.items():
            names = [name for name in outline if owners.get(name) == block]
            _attach(
                module, {name[len(block) + 1 :]: self._keeper(name, weights, outline, kind(name)) for name in names}
            )
        give_back()
        return network.eval().requires_grad_(False)

    def _keeper(
        self, name: str, weights: Mapping[str, Tensor], outline: Mapping[str, Tensor], dtype: torch.dtype
    ) -> Callable[[], Tensor]:
        """What gives a block's weight on the device when the block runs."""
        if self.int8 and is_matrix(outline[name]):
            kept = quantise(weights[name])
            kept = kept if self.streamed else kept.to(self.device)
            return lambda: kept.to(self.device).restore(dtype)
        if self.streamed:
            return lambda: weights[name].to(self.device).to(dtype)
        there = weights[name].to(self.device, dtype)
        return lambda: there


def _blocks(network: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in network.named_modules() if getattr(module, "streams", False)}


def _attach(block: nn.Module, keepers: Mapping[str, Callable[[], Tensor]]) -> None:
    """Has a block's parameters made before each of its runs, and dropped after it."""
    places = [(*_owner(block, name), keeper) for name, keeper in keepers.items()]
    empty = dict(block.named_parameters())

    def bring(*_: object) -> None:
        for owner, name, keeper in places:
            owner._parameters[name] = nn.Parameter(keeper(), requires_grad=False)

    def drop(*_: object) -> None:
        for (owner, name, _keeper), full in zip(places, keepers, strict=True):
            owner._parameters[name] = empty[full]

    block.register_forward_pre_hook(bring)
    block.register_forward_hook(drop, always_call=True)


def _owner(block: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return block.get_submodule(path), leaf
