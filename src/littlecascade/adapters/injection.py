"""Adapters at work on a network: hooks beside its matrices, which leave the network itself as it is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from typing import Any, NamedTuple, Self

import torch
from torch import Generator, Tensor, nn
from torch.utils.hooks import RemovableHandle

from littlecascade.adapters.deltas import KINDS, Delta
from littlecascade.adapters.hooks import Hooks
from littlecascade.adapters.sites import OFFICIAL, Given, Site, select, sites
from littlecascade.errors import InputError, suggest
from littlecascade.memory.residence import read_weight
from littlecascade.nn.blocks import Factor

OnStep = Callable[[int, int, Tensor], None]
"""Called after a step with its number, from 1, how many there are, and the estimate of x0."""


class Deltas(nn.Module):
    """The changes of one network's matrices, by the name of their site."""

    def __init__(self, deltas: Mapping[str, Delta]) -> None:
        super().__init__()
        self._deltas = nn.ModuleDict({name.replace(".", "/"): delta for name, delta in deltas.items()})

    @classmethod
    def create(
        cls,
        network: nn.Module,
        filters: Iterable[str] = OFFICIAL,
        *,
        kind: str = "lora",
        rank: int = 4,
        alpha: float = 1.0,
        dropout: float = 0.0,
        generator: Generator | None = None,
    ) -> Self:
        """Changes to be trained, which at first change nothing, in float32 on the network's device.

        filters: see `select`. kind: lora, dora, loha or lokr. generator: on the CPU. Raises `InputError` for a filter
        that matches nothing, a rank under 1, an unknown kind, and an alpha or dropout that can't be.
        """
        if kind not in KINDS:
            raise InputError(f"Unknown kind of adapter {kind!r}; there are {', '.join(KINDS)}.{suggest(kind, KINDS)}")
        if rank < 1:
            raise InputError(f"An adapter of rank {rank} changes nothing: the rank is 1 or more, such as 4 or 16.")
        if not alpha > 0 or not 0 <= dropout < 1:
            raise InputError(f"alpha {alpha} and dropout {dropout}: alpha is above 0, dropout from 0 to below 1.")
        deltas: dict[str, Delta] = {}
        factors: Mapping[str, Factor] = getattr(network, "factors", {})
        for name, site in select(network, filters).items():
            weight = read_weight(network, site.parameter).detach().flatten(1)
            if site.parameter in factors:
                weight = weight.float() / _like(torch.as_tensor(factors[site.parameter]), weight.float())
            delta = KINDS[kind].create(weight, rank, generator, site.fused)
            delta.given_alpha, delta.dropout = alpha, dropout
            deltas[name] = delta.to(weight.device, torch.float32)
        return cls(deltas)

    @property
    def by_site(self) -> dict[str, Delta]:
        """Each change by the name of its site."""
        found = ((name.replace("/", "."), delta) for name, delta in self._deltas.items())
        return {name: delta for name, delta in found if isinstance(delta, Delta)}

    def __len__(self) -> int:
        return len(self._deltas)


class Layer(NamedTuple):
    """Changes, by what they are multiplied, and the share of the steps from, and up to but not at, which they work."""

    deltas: Deltas
    scale: float = 1.0
    steps: tuple[float, float] = (0.0, 1.0)


class Injection(Hooks):
    """Puts changes beside a network's matrices until `remove`, or the end of a `with`.

    The network's parameters keep their names and values, so that afterwards it is what it was. Weights that are
    brought in for the time of a block's call are read then. The changes must be on the network's device.
    """

    share: float | None = None
    """How much of the steps is done, from 0 to below 1; None for what is computed once for all steps."""

    _paused = False

    def __init__(self, network: nn.Module, layers: Collection[Layer]) -> None:
        """Raises `InputError` for changes of matrices that the network does not have, or of another shape."""
        known, factors = sites(network), getattr(network, "factors", {})
        names = dict.fromkeys(name for layer in layers for name in layer.deltas.by_site)
        for layer in layers:
            check(layer.deltas.by_site, known, type(network).__name__)
        handles: list[RemovableHandle] = []
        for name in names:
            own = [(layer.deltas.by_site[name], layer) for layer in layers if name in layer.deltas.by_site]
            hook = _Hook(self, known[name], own, factors.get(known[name].parameter))
            handles.append(known[name].module.register_forward_hook(hook))
        super().__init__(handles)

    def watch(self, on_step: OnStep | None) -> OnStep:
        """Begin with the steps; what is returned is to be called after each, and calls `on_step`, too."""
        self.share = 0.0

        def step(number: int, steps: int, x0: Tensor) -> None:
            self.share = number / steps
            if on_step is not None:
                on_step(number, steps, x0)

        return step

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within: nothing works, and the network is as it is without changes."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def works(self, steps: tuple[float, float]) -> bool:
        """Whether changes with this range work now."""
        return not self._paused and (self.share is None or steps[0] <= self.share < steps[1])


def check(deltas: Mapping[str, Delta], known: Mapping[str, Site], network: str) -> None:
    """Raise `InputError` unless each change has a matrix of its shape among the sites of a network."""
    strange = [name for name in deltas if name not in known]
    if strange:
        raise InputError(f"{network} has no {strange[0]} ({len(strange)} of {len(deltas)} names are unknown).")
    for name, delta in deltas.items():
        if delta.shape != known[name].shape:
            needed, given = (" x ".join(map(str, shape)) for shape in (known[name].shape, delta.shape))
            raise InputError(f"{name} of {network} is {needed}, and the adapter's {given}.")


class _Hook:
    """Adds to what a matrix gives. factor: by what the matrix has been multiplied, see `Trunk.divide_stream`."""

    def __init__(
        self, injection: Injection, site: Site, own: list[tuple[Delta, Layer]], factor: Factor | None = None
    ) -> None:
        self.injection, self.site, self.own = injection, site, own
        self.columns = factor if isinstance(factor, Tensor) and factor.shape[0] == 1 else None
        self.rows = factor if self.columns is None else None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        active = [(delta, layer.scale) for delta, layer in self.own if self.injection.works(layer.steps)]
        if not active:
            return output
        given = self.site.read(args)
        x = given.x if self.columns is None else given.x * _like(self.columns[0], given.x)
        rows = self._row_factor(given.rows, x)
        base, weight = output, given.weight
        if any(delta.reads_base for delta, _ in active):
            base, weight = self._undivided(output, given, rows)
        parts = [_times(delta(x, base, weight, given.rows.start), scale) for delta, scale in active]
        return output + _times(reduce(torch.add, parts), 1.0 if rows is None else rows)

    def _row_factor(self, rows: slice, x: Tensor) -> Tensor | float | None:
        return _like(self.rows[rows, 0], x) if isinstance(self.rows, Tensor) else self.rows

    def _undivided(self, output: Tensor, given: Given, rows: Tensor | float | None) -> tuple[Tensor, Tensor]:
        """W x without bias, and W, as they are without factors."""
        base = output if given.bias is None else output - given.bias[given.rows]
        factor = self.rows if self.columns is None else self.columns
        if factor is None:
            return base, given.weight
        weight = given.weight / (_like(factor, given.weight) if isinstance(factor, Tensor) else factor)
        return base if rows is None else base / rows, weight


def _times(tensor: Tensor, factor: Tensor | float) -> Tensor:
    return tensor if isinstance(factor, float) and factor == 1 else tensor * factor


def _like(factor: Tensor, tensor: Tensor) -> Tensor:
    return factor.to(tensor.device, tensor.dtype)
