"""Drawing latents with one network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, Self, TypedDict

import torch
from torch import Tensor, nn

from littlecascade.diffusion.guidance import make_denoiser
from littlecascade.diffusion.noise import image_noise
from littlecascade.diffusion.parametrisation import Parametrisation
from littlecascade.diffusion.process import add_noise
from littlecascade.diffusion.samplers import SAMPLERS
from littlecascade.errors import InputError, suggest
from littlecascade.presets import Drawing

OnStep = Callable[[int, int, Tensor], None]
"""Called with the number of the step (from 1), the number of steps, and the current estimate of x0 (B, C, H, W)."""


@dataclass(frozen=True)
class Settings:
    """How to sample: a name in `SAMPLERS`, the number of steps, the guidance scale, its rescale and its interval.

    interval: the times between which guidance works, ends included; time falls from 1 (noise) to 0 by as much in every
    step, so that 0.2 to 0.8 leaves the first and the last fifth of the steps unguided, at half the cost.
    """

    sampler: str = "ddpm"
    steps: int = 20
    guidance: float = 1.0
    rescale: float = 0.7
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            names = ", ".join(SAMPLERS)
            raise InputError(f"Unknown sampler {self.sampler!r}; there are {names}.{suggest(self.sampler, SAMPLERS)}")
        if self.steps < 1:
            raise InputError(f"{self.steps} steps: at least 1 is needed.")
        if not (math.isfinite(self.guidance) and math.isfinite(self.rescale)):
            raise InputError(f"Guidance {self.guidance} with rescale {self.rescale}: both must be finite numbers.")
        if len(self.interval) != 2 or not 0 <= self.interval[0] <= self.interval[1] <= 1:
            raise InputError(f"A guidance interval is two times in order within [0, 1], not {self.interval}.")


class DecoderOptions(TypedDict, total=False):
    """What can be set of how Stage B draws, see `Settings`; None stands for the model's own value.

    Without `decoder_guidance` it draws unguided, at half the cost.
    """

    decoder_steps: int | None
    decoder_sampler: str | None
    decoder_guidance: float | None


class Options(DecoderOptions, total=False):
    """What can be set of how Stage C draws, see `Settings`, and Stage B; None stands for the model's own value.

    guidance_interval: the `interval` of `Settings`.
    """

    steps: int | None
    sampler: str | None
    guidance: float | None
    rescale: float | None
    guidance_interval: tuple[float, float] | None


@dataclass(frozen=True)
class Plan:
    """How both stages draw: every one of `Options`, settled. A recipe holds them under these names."""

    steps: int
    sampler: str
    guidance: float
    rescale: float
    decoder_steps: int
    decoder_sampler: str
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    decoder_guidance: float = 1.0

    @classmethod
    def of(cls, drawing: Drawing, options: Mapping[str, Any]) -> Self:
        """The model's own settings, but for what `Options` chose.

        Raises `InputError` for a setting that can't be, TypeError for a name that is none.
        """
        names = [field.name for field in fields(cls)]
        for name in options.keys() - names:
            raise TypeError(f"Unknown option {name!r}.{suggest(name, names)}")
        own = {name: getattr(drawing, name) for name in names if hasattr(drawing, name)}
        plan = cls(**own | {name: value for name, value in options.items() if value is not None})
        _ = plan.prior, plan.decoder  # checked here, before a network is read
        return plan

    @property
    def prior(self) -> Settings:
        """Stage C's."""
        return Settings(self.sampler, self.steps, self.guidance, self.rescale, self.guidance_interval)

    @property
    def decoder(self) -> Settings:
        """Stage B's."""
        return Settings(self.decoder_sampler, self.decoder_steps, self.decoder_guidance)

    def recipe(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        return asdict(self) | {"guidance_interval": list(self.guidance_interval)}

    def decoder_options(self) -> dict[str, Any]:
        """`DecoderOptions`, settled."""
        return {name: value for name, value in asdict(self).items() if name.startswith("decoder_")}


class Start(NamedTuple):
    """Latents (1 or B, C, H, W) to start from in place of noise, and how much noise covers them, in (0, 1]."""

    latents: Tensor
    strength: float


@torch.no_grad()
def draw(
    network: nn.Module,
    shape: Sequence[int],
    conditions: Mapping[str, Tensor],
    unconditional: Mapping[str, Tensor] | None,
    parametrisation: Parametrisation,
    settings: Settings,
    seeds: Sequence[int],
    on_step: OnStep | None = None,
    start: Start | None = None,
) -> Tensor:
    """Latents (B, C, H, W) float32 of `shape`, each from its own seed, so that none depends on its neighbours.

    conditions, unconditional: keyword arguments of the network; without the latter there is no guidance.
    start: draws from there on (Meng et al. 2021, "SDEdit"), with that share of the steps, rounded up.
    The noise is drawn on the CPU, whatever the device of the conditions.
    """
    device = next(iter(conditions.values())).device
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    denoise = make_denoiser(
        network,
        conditions,
        unconditional,
        target=parametrisation.target,
        schedule=parametrisation.schedule,
        scale=settings.guidance,
        rescale=settings.rescale,
        interval=settings.interval,
    )
    x = image_noise(shape[1:], generators).to(device)
    steps, strength = settings.steps, 1.0
    if start is not None:
        strength = start.strength
        steps = max(1, math.ceil(steps * strength - 1e-6))
    levels = parametrisation.schedule.steps(steps, start=strength)
    if start is not None:
        x = add_noise(start.latents.to(device), x, levels[0])
    for number, step in enumerate(SAMPLERS[settings.sampler](denoise, x, levels, generators=generators), start=1):
        x = step.x
        if on_step is not None:
            on_step(number, steps, step.x0)
    return x
