"""AdamW whose moments are kept in 8 bits, by blocks (Dettmers et al. 2022, "8-bit Optimizers via Block-wise
Quantization"). Written in plain torch, so that it runs wherever torch does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from littlecascade.training.optim.rounding import at_once
from littlecascade.training.optim.rules import AdamW, Rule, State

CPU = torch.device("cpu")

BLOCK = 256
"""Values that share one scale, their largest magnitude."""

SMALLEST = 1 << 12
"""Values that a weight must have for 8-bit moments; those of smaller ones stay float32, as in the paper's code."""


@dataclass(frozen=True)
class AdamW8bit(Rule):
    """Two bytes of state a value. An update is AdamW's own, in float32, from moments made anew for it."""

    betas: tuple[float, float]

    def start(self, weight: Tensor) -> State:
        state = {"step": torch.zeros((), device=weight.device)}
        for name, signed in _MOMENTS.items():
            state |= _named(name, quantise(torch.zeros_like(weight), signed=signed))
        return state

    def update(self, weight: Tensor, gradient: Tensor, state: State, lr: float, decay: float) -> None:
        moments = {
            name: restore(state[f"{name}_codes"], state[f"{name}_scales"], signed=signed).view_as(weight)
            for name, signed in _MOMENTS.items()
        }
        AdamW(self.betas).update(weight, gradient, {"step": state["step"], **moments}, lr, decay)
        for name, signed in _MOMENTS.items():
            state |= _named(name, quantise(moments[name], signed=signed))


_MOMENTS = {"exp_avg": True, "exp_avg_sq": False}
"""Whether each of AdamW's moments has a sign."""


def _named(name: str, parts: tuple[Tensor, Tensor]) -> State:
    return {f"{name}_codes": parts[0], f"{name}_scales": parts[1]}


@cache
def levels(device: torch.device = CPU, *, signed: bool) -> Tensor:
    """The 256 numbers that a code stands for, ascending, at most 1: of every decade from 1 downwards half as many as of
    the one above it (Dettmers 2016, "8-Bit Approximations for Parallelism in Deep Learning", dynamic trees).
    """
    if device != CPU:
        return levels(signed=signed).to(device)
    numbers = [torch.tensor([0.0, 1.0])]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2**decade * (1 if signed else 2) + 1)
        middles = 10.0 ** (decade - 6) * (edges[:-1] + edges[1:]) / 2
        numbers += [middles, -middles] if signed else [middles]
    return torch.cat(numbers).sort().values


@cache
def tables(device: torch.device = CPU, *, signed: bool) -> tuple[Tensor, Tensor]:
    """To find the nearest level without a search, which on a CPU takes twenty times as long.

    The first table has, for each upper half of a float32's bits, the code of the least number that begins so: such
    numbers lie so close together that at most one of the second table, the middles between levels, is among them.
    """
    if device != CPU:
        below, middles = tables(signed=signed)
        return below.to(device), middles.to(device)
    known = levels(signed=signed)
    middles = (known[:-1] + known[1:]) / 2
    upper = torch.arange(1 << 16, dtype=torch.int64)
    least = torch.where(upper < 1 << 15, upper << 16, (upper << 16 | 0xFFFF) - (1 << 32))
    below = torch.bucketize(least.int().view(torch.float32), middles, out_int32=True).clamp_(max=255)
    return below, torch.cat([middles, torch.tensor([torch.inf])])


def quantise(values: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
    """Codes of the nearest levels, (N,) uint8, and scales, (ceil(N / BLOCK),) float32, of N values of any shape.

    Without sign, nothing becomes zero: a second moment of zero beside a first one that is not would make an update
    without bound.
    """
    below, middles = tables(values.device, signed=signed)
    flat = values.reshape(-1)
    blocks = F.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    codes = torch.empty_like(blocks, dtype=torch.uint8)
    scales = blocks.abs().amax(dim=1)
    count = at_once(values.device) // BLOCK
    for part, scale, target in zip(blocks.split(count), scales.split(count), codes.split(count), strict=True):
        relative = (part / scale.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).view(-1)
        code = below.index_select(0, (relative.view(torch.int32) >> 16) & 0xFFFF)
        code += relative > middles.index_select(0, code)
        target.copy_(code.clamp_(min=0 if signed else 1).view_as(target))
    return codes.view(-1)[: len(flat)].clone(), scales


def restore(codes: Tensor, scales: Tensor, *, signed: bool) -> Tensor:
    """The values, (N,) float32, that `quantise` made codes and scales of."""
    known = levels(codes.device, signed=signed)
    blocks = F.pad(codes, (0, -len(codes) % BLOCK)).view(-1, BLOCK)
    values = torch.empty(blocks.shape, device=codes.device)
    count = at_once(codes.device) // BLOCK
    for part, scale, target in zip(blocks.split(count), scales.split(count), values.split(count), strict=True):
        torch.mul(known.index_select(0, part.int().view(-1)).view_as(target), scale[:, None], out=target)
    return values.view(-1)[: len(codes)]
