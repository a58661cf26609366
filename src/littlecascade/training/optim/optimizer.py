"""The optimizer of one phase: what all rules have in common. The ways to save memory are in docs/training-memory.md."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from zlib import crc32

import torch
from torch import Tensor, nn

from littlecascade.data.order import derive_seed
from littlecascade.memory.offload import Lane, Shelf
from littlecascade.nn.blocks import Factor
from littlecascade.training.config import RunConfig
from littlecascade.training.optim.eight_bit import SMALLEST, AdamW8bit
from littlecascade.training.optim.prodigy import Prodigy
from littlecascade.training.optim.rules import Adafactor, AdamW, Muon, Rule, is_hidden_matrix
from littlecascade.training.optim.scaling import LossScale
from littlecascade.training.optim.weight import Weight


class PhaseOptimizer:
    """Clips gradients, checks that they are finite, and updates weights by the rule that the configuration names.

    An update is `begin`, `backward` for the loss of each micro-batch, `step`. With `fused_backward` the weights are
    updated during `backward`, each as soon as its gradient is there, which is then dropped.

    Weight decay acts on matrices and kernels, not on biases, norms and other vectors.

    lane: with one, states and masters are in the machine's memory, and on the device while their weight is updated.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: RunConfig, lane: Lane | None = None) -> None:
        self.config = config
        masters = Shelf(lane) if config.master_weights == "float32" else None
        self.weights = {name: Weight(name, parameter, masters) for name, parameter in parameters.items()}
        self.decays = {name: config.weight_decay if own.ndim > 1 else 0.0 for name, own in parameters.items()}
        self.rules = {name: choose_rule(name, parameter, config) for name, parameter in parameters.items()}
        self.states = Shelf(lane)
        self.prodigy: Prodigy | None = None
        if config.optimizer == "prodigy":
            self.prodigy = Prodigy({name: own.read() for name, own in self.weights.items()}, self.decays, config)
        self.scale = LossScale(used=config.precision == "float16")
        self.norms: list[float] = []
        """With `fused_backward`: of the gradients that came since `begin`; the last one may be the first not finite."""
        self._update, self._lr, self._listening = 0, config.lr, False
        if config.fused_backward:
            for name, weight in self.weights.items():
                weight.parameter.register_post_accumulate_grad_hook(partial(self._receive, name))

    def divide(self, factors: Mapping[str, Factor]) -> None:
        """The network has had some parameters multiplied (`memory.rescale`); the weights proper stay the same."""
        for name in factors.keys() & self.weights.keys():
            self.weights[name].divide(factors[name])

    def begin(self, update: int, lr_scale: float) -> None:
        """Forget all gradients. The coming update is number `update`, at `lr_scale` times the learning rate."""
        self._update, self._lr = update, self.config.lr * lr_scale
        self.norms.clear()
        for weight in self.weights.values():
            weight.parameter.grad = None

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss."""
        self._listening = True
        try:
            (loss * self.scale.value).backward()
        finally:
            self._listening = False

    @torch.no_grad()
    def step(self) -> float:
        """Take in the gradients. Returns their norm before clipping.

        Where that is not finite nothing is changed; with `fused_backward`, nothing after the first gradient that was
        not finite.
        """
        norm = math.hypot(*self.norms) if self.config.fused_backward else self._step_on_all()
        if math.isfinite(norm):
            self.scale.succeed()
        return norm

    def _step_on_all(self) -> float:
        present = [name for name, weight in self.weights.items() if weight.parameter.grad is not None]
        norms = [torch.linalg.vector_norm(self._gradient(name)) for name in present]
        norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
        if norm.isfinite():
            for name in present:
                self._take(name, self._gradient(name).mul_(self._clip(norm)))
            if self.prodigy is not None:
                self.prodigy.finish(self._lr)
                self.publish()
        return float(norm)

    @torch.no_grad()
    def _receive(self, name: str, parameter: Tensor) -> None:
        """The hook of `fused_backward`: a gradient is complete. Of another phase's loss it is dropped."""
        if self._listening and all(map(math.isfinite, self.norms[-1:])):
            gradient = self._gradient(name)
            norm = torch.linalg.vector_norm(gradient)
            self.norms.append(float(norm))
            if math.isfinite(self.norms[-1]):
                self._take(name, gradient.mul_(self._clip(norm)))
        parameter.grad = None

    def _gradient(self, name: str) -> Tensor:
        gradient = self.weights[name].gradient()
        return gradient if self.scale.value == 1 else gradient / self.scale.value

    def _clip(self, norm: Tensor) -> Tensor:
        return (self.config.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)

    def _take(self, name: str, gradient: Tensor) -> None:
        """Update one weight, and drop its gradient."""
        weight = self.weights[name]
        if self.prodigy is not None:
            self.prodigy.take(name, gradient)
        else:
            value = weight.read()
            state = self.states.take(name) if name in self.states else self.rules[name].start(value)
            self.rules[name].update(value, gradient, state, self._lr, self.decays[name])
            self.states.put(name, state)
            weight.write(value, derive_seed(self.config.seed, self._update, crc32(name.encode())))
        weight.parameter.grad = None

    def publish(self) -> None:
        """Have the network compute with the masters as they are now."""
        for weight in self.weights.values():
            weight.show(weight.read())

    def moments(self) -> dict[str, Tensor]:
        """All that is kept beside the weights, as `{moment}.{parameter}`; none before the first step."""
        states = self.states.everything().items()
        own = {f"{moment}.{name}": value for name, state in states for moment, value in state.items()}
        return own | self.scale.state() | ({} if self.prodigy is None else self.prodigy.state())

    def load_moments(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `moments` gave."""
        self.scale.load(tensors)
        if self.prodigy is not None:
            self.prodigy.load(tensors)
            return
        for name, weight in self.weights.items():
            state = self.rules[name].start(weight.read())
            if all(f"{moment}.{name}" in tensors for moment in state):
                own = {moment: value.copy_(tensors[f"{moment}.{name}"]) for moment, value in state.items()}
                self.states.put(name, own)


def choose_rule(name: str, parameter: Tensor, config: RunConfig) -> Rule:
    """How a weight is updated."""
    match config.optimizer:
        case "muon" if is_hidden_matrix(name, parameter):
            return Muon()
        case "adamw8bit" if parameter.numel() >= SMALLEST:
            return AdamW8bit(config.betas)
        case "adafactor":
            return Adafactor()
        case _:
            return AdamW(config.betas)
