"""About how long a computation would take: of each operation its arithmetic, its traffic or its launch, the longest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from littlecascade.memory.cards import Card
from littlecascade.memory.dataless import GPU, lies_on

EFFICIENCY, TRAFFIC = 0.45, 0.7
"""The shares of a card's arithmetic and bandwidth that kernels reach: assumptions, usual for networks of this size."""

LAUNCH = 1e-5
"""Seconds between two kernels that Python starts: an assumption."""

LINK = 10e9
"""Bytes/s between the memories of CPU and GPU: an assumption (PCIe 3.0 x16 has 16e9)."""


@dataclass(frozen=True)
class Rates:
    """half, single: FLOP/s of 16 bits and of float32. bandwidth: bytes/s. launch: seconds an operation takes at least.

    source: where they are from, in words.
    """

    half: float
    single: float
    bandwidth: float
    launch: float
    source: str

    @classmethod
    def of_card(cls, card: Card) -> Rates:
        """Of a card, as far as kernels reach what its data sheet says."""
        rates = (EFFICIENCY * card.half, EFFICIENCY * card.single, TRAFFIC * card.bandwidth)
        whose = "the card's" if card.known else "a usual card's"
        return cls(*rates, LAUNCH, f"{EFFICIENCY:.0%} of {whose} FLOP/s and {TRAFFIC:.0%} of its bandwidth")

    @classmethod
    def of_cpu(cls) -> Rates:
        """Of this machine's CPU, measured."""
        half, single = (2 * 768**3 / _fastest(*_product(dtype)) for dtype in (torch.bfloat16, torch.float32))
        source, target = torch.ones(1 << 23), torch.ones(1 << 23)
        bandwidth = 2 * source.nbytes / _fastest(lambda: target.copy_(source))
        return cls(half, single, bandwidth, 2e-6, "rates measured on this CPU")


def _product(dtype: torch.dtype) -> tuple[Callable[[], object]]:
    left, right = torch.ones(768, 768, dtype=dtype), torch.ones(768, 768, dtype=dtype)
    return (lambda: torch.mm(left, right),)


def _fastest(work: Callable[[], object], repeats: int = 4) -> float:
    times: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


class Clock:
    """Adds up the time of operations, for `Ledger`'s `on_call`, while it is `running`."""

    def __init__(self, rates: Rates) -> None:
        self.rates = rates
        self.total = 0.0
        self._running = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within: time is added up, from nothing."""
        self.total, self._running = 0.0, True
        yield
        self._running = False

    def count(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        """Add an operation, unless it only looks at memory in another way."""
        if not self._running or func.is_view:
            return
        own = _tensors(result)
        tensors = [*(tensor for value in args for tensor in _tensors(value)), *own]
        if not tensors:
            return
        rates = self.rates
        moved = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if func is torch.ops.aten._to_copy.default and lies_on(GPU, tensors[0]) != lies_on(GPU, tensors[1]):
            self.total += moved / 2 / LINK
            return
        seconds = max(rates.launch, moved / rates.bandwidth)
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            rate = rates.single if tensors[0].dtype == torch.float32 else rates.half
            seconds = max(seconds, formula(*args, **kwargs, out_val=result) / rate)
        self.total += seconds


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)] if isinstance(value, list | tuple) else []
