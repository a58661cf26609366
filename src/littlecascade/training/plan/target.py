"""The machine that a plan is for: a card by its name, this machine's own, or a CPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from littlecascade.memory.cards import GIB, Card, find_card
from littlecascade.memory.measure import free_memory
from littlecascade.memory.precision import choose_dtype
from littlecascade.training.config import RunConfig
from littlecascade.training.plan.rates import Rates

PROCESS = 0.35 * GIB
"""Bytes that Python, torch and this package take (0.3 GiB), and what the libraries of torch's kernels keep once these
have run: measured on Linux (benchmarks/plan.py)."""

DISPLAY = 0.4 * GIB
"""Bytes of a card that the desktop and other programs have: an assumption."""

FRAGMENTS, FRAGMENTS_CPU = 0.05, 0.02
"""What is lost between tensors, as a share of theirs: for PyTorch's allocator on a GPU an assumption, on a CPU measured
with benchmarks/plan.py."""


@dataclass(frozen=True)
class Target:
    """memory: bytes that a run may take, all counted. context: bytes that are taken before the first tensor.

    fragments: what is lost between tensors, as a share of theirs. bfloat16: whether it is quick with that.
    """

    name: str
    gpu: bool
    memory: float
    context: float
    fragments: float
    bfloat16: bool
    rates: Rates

    @classmethod
    def of(cls, name: str | None = None) -> Target:
        """Of `cpu`, of a card as `find_card` takes them, or of what this machine trains on.

        Raises `InputError` for a name that is none of these.
        """
        if name is None:
            return cls.here(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        if name.strip().lower() == "cpu":
            return cls.here(torch.device("cpu"))
        card = find_card(name)
        return cls._of_card(card, card.memory - DISPLAY)

    @classmethod
    def here(cls, device: torch.device) -> Target:
        """Of a device of this machine, with what is free on it now."""
        free = float(free_memory(device))
        if device.type == "cuda":
            return cls._of_card(Card.here(), free)
        quick = choose_dtype("auto", device) == torch.bfloat16
        return cls("CPU", False, free, PROCESS, FRAGMENTS_CPU, quick, Rates.of_cpu())

    @classmethod
    def _of_card(cls, card: Card, memory: float) -> Target:
        return cls(card.name, True, memory, card.context, FRAGMENTS, card.bfloat16, Rates.of_card(card))

    def precision(self, config: RunConfig) -> str:
        """What a run computes in here, by the rule of `training.stock.precision_of`."""
        if config.precision != "auto":
            return config.precision
        if self.bfloat16:
            return "bfloat16"
        return "float16" if self.gpu and config.large else "float32"
