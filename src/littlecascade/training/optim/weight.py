"""A trained weight in its two guises: what the network computes with, and what the optimizer steps on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from littlecascade.memory.offload import Shelf
from littlecascade.nn.blocks import Factor
from littlecascade.training.optim.rounding import round_stochastically


class Weight:
    """The network's parameter, in its compute type, is `factor` times the weight proper, rounded.

    The weight proper is float32: the parameter itself if that is, else a master of its own or, without masters, made
    anew from the parameter whenever it is asked for.

    masters: where the master is kept, under `name`, of a parameter that is not float32; None for no master.
    """

    def __init__(self, name: str, parameter: nn.Parameter, masters: Shelf | None) -> None:
        self.name, self.parameter = name, parameter
        self.factor: Tensor | None = None
        self._itself = parameter.detach() if parameter.dtype == torch.float32 else None
        self._masters = masters if self._itself is None else None
        if self._masters is not None:
            self._keep(parameter.detach().float())

    @property
    def master(self) -> Tensor | None:
        """What is kept beside the parameter, where it is kept."""
        return None if self._masters is None else self._masters.everything()[self.name]["master"]

    def divide(self, factor: Factor) -> None:
        """From now on the parameter, which has been multiplied already, is `factor` times the weight proper."""
        self.factor = torch.as_tensor(factor, dtype=torch.float32, device=self.parameter.device)

    @torch.no_grad()
    def read(self) -> Tensor:
        """The weight proper; it may be the master or the parameter itself."""
        if self._itself is not None:
            return self._itself
        if self._masters is not None:
            return self._masters.take(self.name)["master"]
        value = self.parameter.detach().float()
        return value if self.factor is None else value / self.factor

    @torch.no_grad()
    def gradient(self) -> Tensor:
        """Of the weight proper, float32; it may be the parameter's own."""
        assert self.parameter.grad is not None
        gradient = self.parameter.grad.float()
        return gradient if self.factor is None else gradient * self.factor

    @torch.no_grad()
    def write(self, value: Tensor, seed: int) -> None:
        """Take over a changed weight proper; without a master it is rounded at random, as `seed` says."""
        if self._masters is not None:
            self._keep(value)
        elif self.parameter.dtype != torch.float32:
            value = value if self.factor is None else value * self.factor
            self.parameter.copy_(round_stochastically(value, self.parameter.dtype, seed))
            return
        self.show(value)

    @torch.no_grad()
    def show(self, value: Tensor) -> None:
        """Have the network compute with this, of the weight proper's shape; masters stay as they are."""
        if value is not self._itself:
            value = value.to(self.parameter.device)
            self.parameter.copy_(value if self.factor is None else value * self.factor)

    def stored(self) -> Tensor:
        """What a checkpoint keeps: all that the weight proper holds, and no more bytes than needed."""
        return self.parameter.detach() if self._masters is None and self.factor is None else self.read()

    @torch.no_grad()
    def load(self, stored: Tensor) -> None:
        """Take back what `stored` gave, here or where the parameter was of another type."""
        if self._masters is not None:
            self._keep(self.read().copy_(stored))
        self.show(stored if self._masters is None else self.read())

    def _keep(self, value: Tensor) -> None:
        assert self._masters is not None
        self._masters.put(self.name, {"master": value})
