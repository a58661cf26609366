"""Weights to start training from."""

from __future__ import annotations

from torch import Generator, nn


def draw_default(module: nn.Module, generator: Generator | None = None) -> None:
    """Draw every convolution and linear layer of `module` anew, and reset its batch normalisations.

    The distribution is torch's own default, uniform within 1 / sqrt(fan in) for weights and biases; unlike torch's
    constructors it can be drawn from `generator`, so that the same generator gives the same weights.
    """
    for child in module.modules():
        match child:
            case nn.Conv2d() | nn.ConvTranspose2d() | nn.Linear():
                bound = child.weight[0].numel() ** -0.5
                nn.init.uniform_(child.weight, -bound, bound, generator=generator)
                if child.bias is not None:
                    nn.init.uniform_(child.bias, -bound, bound, generator=generator)
            case nn.BatchNorm2d():
                child.reset_parameters()
