"""What autograd keeps of a network's forward pass for the backward pass, and less of it.

Inside of what is recomputed (`torch.utils.checkpoint`) nothing is kept in any case, and nothing here is asked.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from littlecascade.memory.offload import Ahead, Lane

Packer = Callable[[Tensor], Callable[[], Tensor] | None]
"""For a tensor that is to be kept: what gives it back, to be kept in its place, or None."""

LEAST = 1 << 16
"""Values that an activation must have to be worth moving."""


def keep_less(network: nn.Module, packer: Packer) -> None:
    """Have autograd ask a packer, after those that were given before it, in every forward pass of a network."""
    packers: list[Packer] | None = getattr(network, "packers", None)
    if packers is None:
        packers = []
        network.packers = packers  # pyright: ignore[reportArgumentType]
        _watch(network, packers)
    packers.append(packer)


def _watch(network: nn.Module, packers: list[Packer]) -> None:
    def pack(tensor: Tensor) -> Tensor | Callable[[], Tensor]:
        return next((made for packer in packers if (made := packer(tensor)) is not None), tensor)

    def unpack(packed: Tensor | Callable[[], Tensor]) -> Tensor:
        return packed if isinstance(packed, Tensor) else packed()

    open_hooks: list[saved_tensors_hooks] = []

    def enter(*_: object) -> None:
        open_hooks.append(saved_tensors_hooks(pack, unpack))
        open_hooks[-1].__enter__()

    def leave(*_: object) -> None:
        open_hooks.pop().__exit__()

    network.register_forward_pre_hook(enter)
    network.register_forward_hook(leave, always_call=True)


class Activations:
    """A packer that moves activations to the machine's memory, and brings them back in the backward pass, each while
    the device computes with the one that came after it.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._ahead: Ahead[_Moved] = Ahead(lane, lambda moved: [moved.home])
        self._last: weakref.ref[_Moved] | None = None

    def __call__(self, tensor: Tensor) -> Callable[[], Tensor] | None:
        weight = isinstance(tensor if tensor._base is None else tensor._base, nn.Parameter)
        if weight or tensor.numel() < LEAST or tensor.device != self._lane.device:
            return None
        moved = _Moved(self._lane.host_like(tensor), self._last)
        self._lane.store([tensor.detach()], [moved.home])
        self._last = weakref.ref(moved)
        return partial(self._bring, moved)

    def _bring(self, moved: _Moved) -> Tensor:
        (tensor,) = self._ahead.take(moved)
        self._ahead.expect(None if moved.before is None else moved.before())
        return tensor


@dataclass(frozen=True, eq=False)
class _Moved:
    """An activation in the machine's memory, and the one that was moved before it, as long as that is needed."""

    home: Tensor
    before: weakref.ref[_Moved] | None
