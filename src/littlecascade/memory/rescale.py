"""Stage B and C in float16, whose largest number is 65,504: their residual stream, which outgrows that, is divided.

`Trunk.divide_stream` says what that asks of the weights. Here the divisor is found, by one trial.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from littlecascade.checkpoint.lazy import LazyTensors
from littlecascade.errors import InputError
from littlecascade.memory.residence import Residence
from littlecascade.models.stage_b import StageB
from littlecascade.models.stage_c import StageC
from littlecascade.models.trunk import Trunk
from littlecascade.nn.blocks import Block, Factor

Network = TypeVar("Network", StageB, StageC)

TRIAL = 2.0**10
"""The divisor of the trial; the stream of the official weights is expected to need less."""
ROOM = 2.0**12
"""The largest magnitude that a divided stream may have in the trial: a sixteenth of what float16 holds."""


def divided(weights: Mapping[str, Tensor], factors: Mapping[str, Factor]) -> dict[str, Callable[[], Tensor]]:
    """What makes each of the weights, multiplied by its factor if it has one, in float32."""

    def make(name: str) -> Tensor:
        weight = weights[name]
        return weight.float() * _beside(weight, factors[name]) if name in factors else weight

    return {name: partial(make, name) for name in weights}


def _beside(weight: Tensor, factor: Factor) -> Factor:
    """A factor on the device of what it multiplies."""
    return factor.to(weight.device) if isinstance(factor, Tensor) else factor


def place(
    build: Callable[[], Network], residence: Residence, weights: Mapping[str, Tensor], outline: Mapping[str, Tensor]
) -> Network:
    """A network that `build` makes on the meta device, with its weights in a residence; in float16 with its stream
    divided. weights, outline: see `Residence.place`. Raises `InputError` as `fit` does.
    """

    def placed(divisor: float) -> Network:
        network = build()
        if divisor == 1:
            return residence.place(network, weights, outline)
        factors, wide = network.divide_stream(divisor)
        return residence.place(network, LazyTensors(divided(weights, factors)), outline, wide)

    return fit(placed) if residence.dtype == torch.float16 else placed(1)


def fit(build: Callable[[float], Network]) -> Network:
    """The network that `build` makes for a divisor, with the smallest power of two that leaves the stream its room.

    Powers of two lose nothing. Raises `InputError` where not even a large divisor helps.
    """
    network = build(TRIAL)
    divisor = _needed(network)
    if divisor == TRIAL:
        return network
    del network  # both at once might not fit
    return build(divisor)


@torch.no_grad()
def divide(network: Trunk) -> dict[str, Factor]:
    """Divide the stream of a network in float16 in place, as far as `fit` would, and give the factors by which its
    parameters, some of which are float32 from now on, have been multiplied. `undivide` takes the division back.

    What it was is kept in the CPU's memory meanwhile. Raises `InputError` as `fit` does.
    """
    whole = {name: parameter.detach().to("cpu", copy=True) for name, parameter in network.named_parameters()}

    def apply(divisor: float) -> dict[str, Factor]:
        factors, wide = network.divide_stream(divisor)
        for name, make in divided(whole, factors).items():
            parameter, dtype = network.get_parameter(name), torch.float32 if name in wide else whole[name].dtype
            parameter.data = make().to(parameter.device, dtype)
        return dict(factors)

    training = network.training
    network.eval()
    apply(TRIAL)
    divisor = _needed(network)
    undivide(network)
    factors = apply(divisor)
    network.train(training)
    return factors if divisor > 1 else {}


@torch.no_grad()
def undivide(network: Trunk) -> None:
    """Take back a division, in the network's weights, too, as far as their type still holds what they were."""
    factors, _ = network.divide_stream(1 / network.divisor)
    for name, factor in factors.items():
        parameter = network.get_parameter(name)
        parameter.mul_(_beside(parameter, factor))


def _needed(network: Trunk) -> float:
    """The divisor for a network that has been divided by `TRIAL`."""
    peak = stream_peak(network) * TRIAL
    if not math.isfinite(peak):
        raise InputError(
            f"float16 can't hold what {type(network).__name__} computes with these weights, not even divided by "
            f"{TRIAL:.0f}: use precision bfloat16 or float32."
        )
    return 2.0 ** max(0, math.ceil(math.log2(max(peak, 1.0) / ROOM)))


@torch.no_grad()
def stream_peak(network: Trunk) -> float:
    """The largest magnitude in the residual stream, as it is computed, over a noisy and a clean pair of latents."""
    peaks: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda _block, _given, result: peaks.append(result.abs().amax().float()))
        for block in network.modules()
        if isinstance(block, Block)
    ]
    try:
        predictions = _run(network)
    finally:
        for handle in handles:
            handle.remove()
    peak = torch.stack(peaks).amax()
    return float(peak) if predictions.isfinite().all() else math.inf


def _run(network: Trunk) -> Tensor:
    """A prediction for noise and for nearly none, under conditions of the usual size."""
    generator = torch.Generator().manual_seed(0)
    device = network.get_parameter("clf.1.weight").device

    def normal(*shape: int) -> Tensor:
        return torch.randn(2, *shape, generator=generator).to(device)

    time = torch.tensor([0.99, 0.05], device=device)
    if isinstance(network, StageB):
        config, side = network.config, 64
        conditions = network.encode_conditions(
            normal(config.effnet_channels, 6, 6), normal(1, config.pooled_width), size=(side, side)
        )
        return network(normal(config.trunk.in_channels, side, side), time, **conditions)
    assert isinstance(network, StageC)
    config, side = network.config, 24
    conditions = network.encode_conditions(normal(16, config.text_width), normal(1, config.pooled_width))
    return network(normal(config.trunk.in_channels, side, side), time, **conditions)
