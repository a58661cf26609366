"""Adapters into a network's weights, and out of two networks' weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from littlecascade.adapters.deltas import Delta, LoRA
from littlecascade.adapters.injection import Deltas, Layer, check
from littlecascade.adapters.sites import OFFICIAL, Site, select, sites
from littlecascade.checkpoint.lazy import LazyTensors
from littlecascade.errors import InputError

_OVERSAMPLED = 16
_ITERATIONS = 6


def merge(weights: Mapping[str, Tensor], network: nn.Module, layers: Iterable[Layer]) -> Mapping[str, Tensor]:
    """Weights with the changes in them: W + sum of scale * change in float32, in the number format of W.

    weights: of the network, by name. network: on any device, for its names and shapes. Each is made when it is asked
    for. Raises `InputError` for changes that do not fit.
    """
    known = sites(network)
    own: dict[str, list[tuple[Delta, float]]] = {}
    for layer in layers:
        check(layer.deltas.by_site, known, type(network).__name__)
        for name, delta in layer.deltas.by_site.items():
            own.setdefault(known[name].parameter, []).append((delta, layer.scale))

    def make(name: str) -> Tensor:
        return _merged(weights[name], own[name]) if name in own else weights[name]

    return LazyTensors({name: partial(make, name) for name in weights})


@torch.no_grad()
def _merged(weight: Tensor, changes: Iterable[tuple[Delta, float]]) -> Tensor:
    matrix = weight.float().flatten(1)
    merged = matrix
    for delta, scale in changes:
        merged = merged + scale * delta.matrix(matrix)
    return merged.view(weight.shape).to(weight.dtype)


def extract(
    base: Mapping[str, Tensor],
    tuned: Mapping[str, Tensor],
    network: nn.Module,
    rank: int,
    filters: Iterable[str] = OFFICIAL,
) -> tuple[Deltas, float]:
    """The LoRA of a rank that is nearest to the difference of two networks' weights, by singular values.

    Also returns the share of the squared difference that it holds, from 0 to 1, over the matrices that the filters
    choose. Matrices without a difference get no change. The decomposition is randomised (Halko et al. 2011), the same
    in every run. Raises `InputError` for a rank under 1, and where nothing differs.
    """
    if rank < 1:
        raise InputError(f"Rank {rank}: it is 1 or more.")
    deltas: dict[str, Delta] = {}
    kept = total = 0.0
    for name, site in select(network, filters).items():
        difference = (tuned[site.parameter].float() - base[site.parameter].float()).flatten(1)
        size = float(difference.square().sum())
        if size:
            delta, own = _nearest(site, difference, rank)
            deltas[name] = delta
            kept, total = kept + own, total + size
    if not deltas:
        raise InputError("These two networks do not differ in any of the chosen modules: there is nothing to extract.")
    return Deltas(deltas), min(1.0, kept / total)


def _nearest(site: Site, difference: Tensor, rank: int) -> tuple[LoRA, float]:
    """The LoRA, and the sum of its squares."""
    rank = min(rank, *site.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        u, s, v = torch.svd_lowrank(difference, min(rank + _OVERSAMPLED, *site.shape), _ITERATIONS)
    root = s[:rank].sqrt()
    return LoRA(u[:, :rank] * root, root[:, None] * v[:, :rank].T), float(s[:rank].square().sum())
