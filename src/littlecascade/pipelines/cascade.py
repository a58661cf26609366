"""The cascade: prompt to Stage C to Stage B to Stage A, and a picture's way through the compressor and back."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from littlecascade import __version__
from littlecascade.data.order import derive_seed
from littlecascade.data.pixels import to_image, to_rgb, to_tensor
from littlecascade.errors import InputError
from littlecascade.memory.precision import choose_device, choose_dtype
from littlecascade.pipelines.components import Components, Model
from littlecascade.pipelines.sampling import OnStep, Settings, draw

Progress = Callable[[str, int, int, Image.Image | None], None]
"""Called with the stage ("c" or "b"), the step (from 1), the number of steps, and a small picture of what it looks like."""

MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Result:
    """Pictures, and how they came about; all lists are in the same order.

    latents: (B, 16, h, w) of Stage C. recipes: what it takes to draw each picture again. timings: seconds by part.
    """

    images: list[Image.Image]
    latents: Tensor
    recipes: list[dict[str, Any]]
    timings: dict[str, float]

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe of the first picture."""
        return self.recipes[0]


@dataclass(frozen=True)
class Reconstruction:
    """A picture and what is left of it after the compressor: psnr in dB, and how many values became one."""

    original: Image.Image
    image: Image.Image
    latents: Tensor
    psnr: float
    compression_factor: float

    @property
    def side_by_side(self) -> Image.Image:
        """Original left, reconstruction right."""
        width, height = self.original.size
        sheet = Image.new("RGB", (2 * width, height))
        sheet.paste(self.original, (0, 0))
        sheet.paste(self.image, (width, 0))
        return sheet


class Cascade:
    """A model that is ready to draw. Make one with `Cascade.load`."""

    def __init__(self, components: Components) -> None:
        self.components = components
        self.drawing = components.model.drawing

    @classmethod
    def load(cls, model: str = "tiny", *, device: str = "auto", precision: str = "auto") -> Cascade:
        """Open a model by the name of a shipped size or by its folder; networks are read when they are needed.

        device: auto, cpu or cuda. precision: auto, float32 or bfloat16; auto is float32 on a CPU.
        """
        where = choose_device(device)
        dtype = torch.float32 if precision == "auto" and where.type == "cpu" else choose_dtype(precision, where)
        return cls(Components(Model.find(model), where, dtype))

    @torch.no_grad()
    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        n: int = 1,
        seed: int | None = None,
        size: tuple[int, int] | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        guidance: float | None = None,
        negative: str = "",
        callback: Progress | None = None,
    ) -> Result:
        """Draw `n` pictures of each prompt.

        seed: of the first picture, the others count up from it; drawn at random if not given. size: (width, height) in
        pixels. steps, sampler and guidance are Stage C's; the model's own defaults stand for what is not given.
        Picture k equals the picture drawn alone with seed + k, to rounding.
        """
        prompts = [text for text in ([prompt] if isinstance(prompt, str) else prompt) for _ in range(n)]
        if not prompts:
            raise InputError("Nothing to draw: no prompt, or n is 0.")
        seed = secrets.randbelow(2**32) if seed is None else seed
        if not 0 <= seed <= MAX_SEED - len(prompts):
            raise InputError(f"Seed {seed} is out of range: whole numbers from 0 to {MAX_SEED - len(prompts)}.")
        width, height = self._check_size(size or (self.drawing.image_size,) * 2)
        chosen = {"sampler": sampler, "steps": steps, "guidance": guidance}
        prior = replace(self._prior, **{name: value for name, value in chosen.items() if value is not None})
        seeds = [seed + number for number in range(len(prompts))]

        timer = _Timer()
        conditions, unconditional, pooled = self._encode_text(prompts, negative)
        timer.lap("text")
        grid = (math.ceil(height / self.drawing.compression), math.ceil(width / self.drawing.compression))
        stage_c = self.components.stage_c
        shape = (len(prompts), stage_c.config.trunk.in_channels, *grid)
        parametrisation = self.components.parametrisation("stage_c")
        latents = draw(
            stage_c, shape, conditions, unconditional, parametrisation, prior, _stage_seeds(seeds, 0), self._watch(callback)
        )
        timer.lap("stage_c")
        pixels = self._decode(latents, pooled, seeds, (height, width), timer, callback)
        recipes = [
            {
                "littlecascade": __version__,
                "model": self.components.model.name,
                "model_digest": self.components.model.digest,
                "prompt": text,
                "negative": negative,
                "seed": own,
                "size": [width, height],
                "steps": prior.steps,
                "sampler": prior.sampler,
                "guidance": prior.guidance,
                "precision": str(self.components.dtype).removeprefix("torch."),
            }
            for text, own in zip(prompts, seeds, strict=True)
        ]
        return Result([to_image(picture) for picture in pixels], latents.cpu(), recipes, timer.seconds)

    @torch.no_grad()
    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """Pictures of one size to semantic latents (B, 16, ceil(H / 32), ceil(W / 32)) float32 on the CPU."""
        if len({image.size for image in images}) != 1:
            raise InputError("encode takes pictures of one size: resize or crop them, or call it for each.")
        pixels = torch.stack([to_tensor(to_rgb(image)) for image in images])
        padded = _pad(pixels, 32).to(self.components.device, self.components.dtype)
        return self.components.compressor(padded).float().cpu()

    @torch.no_grad()
    def decode(self, latents: Tensor, *, size: tuple[int, int] | None = None, seed: int = 0) -> list[Image.Image]:
        """Semantic latents (B, 16, h, w) to pictures of `size` (width, height), by Stage B and Stage A.

        Without a size each latent becomes as many pixels as when drawing.
        """
        if size is None:
            height, width = (round(side * self.drawing.compression) for side in latents.shape[-2:])
        else:
            width, height = size
        seeds = [seed + number for number in range(len(latents))]
        pixels = self._decode(latents.to(self.components.device), None, seeds, (height, width), _Timer(), None)
        return [to_image(picture) for picture in pixels]

    def reconstruct(self, image: Image.Image | str | Path, *, seed: int = 0) -> Reconstruction:
        """A picture through the compressor and back; the longer side is first brought to the model's size."""
        if not isinstance(image, Image.Image):
            image = Image.open(image)
        original = to_rgb(image)
        scale = self.drawing.image_size / max(original.size)
        side = [max(8, round(length * scale)) for length in original.size]
        original = original.resize((side[0], side[1]), Image.Resampling.LANCZOS)
        latents = self.encode([original])
        padded = (latents.shape[-1] * 32, latents.shape[-2] * 32)
        drawn = self.decode(latents, size=padded, seed=seed)[0].crop((0, 0, *original.size))
        error = (to_tensor(original) - to_tensor(drawn)).square().mean()
        factor = 3 * original.size[0] * original.size[1] / latents.numel()
        return Reconstruction(original, drawn, latents, float(-10 * torch.log10(error + 1e-12)), factor)

    @property
    def _prior(self) -> Settings:
        return Settings(self.drawing.sampler, self.drawing.steps, self.drawing.guidance, self.drawing.rescale)

    def _check_size(self, size: tuple[int, int]) -> tuple[int, int]:
        low, high = self.drawing.image_size // 2, self.drawing.image_size * 2
        if not all(low <= side <= high for side in size):
            nearest = "x".join(str(min(max(side, low), high)) for side in size)
            raise InputError(
                f"{size[0]}x{size[1]} is out of reach: {self.components.model.name} draws sides of {low} to {high} "
                f"pixels, best {self.drawing.image_size}. The nearest size is {nearest}."
            )
        return size

    def _encode_text(self, prompts: list[str], negative: str) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """Stage C's conditions with and without the prompts, and the prompts' pooled embeddings for Stage B."""
        positive = self.components.text.encode(prompts)
        against = self.components.text.encode([negative] * len(prompts))
        stage_c = self.components.stage_c
        length = max(positive.hidden.shape[1], against.hidden.shape[1])
        conditions, unconditional = (
            stage_c.encode_conditions(_lengthen(each.hidden, length), each.pooled) for each in (positive, against)
        )
        return conditions, unconditional, positive.pooled

    def _decode(
        self,
        latents: Tensor,
        pooled: Tensor | None,
        seeds: Sequence[int],
        size: tuple[int, int],
        timer: _Timer,
        callback: Progress | None,
    ) -> Tensor:
        """(B, 3, H, W) in [0, 1] for `size` (H, W): drawn large enough for all latents, the middle cut out."""
        stage_b, stage_a = self.components.stage_b, self.components.stage_a
        height, width = (8 * math.ceil(side * self.drawing.compression / 8) for side in latents.shape[-2:])
        inner = (height // 4, width // 4)
        conditions = stage_b.encode_conditions(latents, pooled, size=inner)
        shape = (len(latents), stage_b.config.trunk.in_channels, *inner)
        settings = Settings(self.drawing.decoder_sampler, self.drawing.decoder_steps)
        parametrisation = self.components.parametrisation("stage_b")
        on_step = None if callback is None else lambda step, steps, x0: callback("b", step, steps, None)
        drawn = draw(stage_b, shape, conditions, None, parametrisation, settings, _stage_seeds(seeds, 1), on_step)
        timer.lap("stage_b")
        pixels = stage_a.decode(drawn.to(self.components.dtype)).float().cpu()
        timer.lap("stage_a")
        top, left = (pixels.shape[-2] - size[0]) // 2, (pixels.shape[-1] - size[1]) // 2
        return pixels[..., top : top + size[0], left : left + size[1]]

    def _watch(self, callback: Progress | None) -> OnStep | None:
        if callback is None:
            return None

        def on_step(step: int, steps: int, x0: Tensor) -> None:
            preview = self.components.previewer(x0[:1].to(self.components.dtype))[0]
            callback("c", step, steps, to_image(preview))

        return on_step


class _Timer:
    """Seconds by part, each from the end of the one before."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part], self._last = now - self._last, now


def _stage_seeds(seeds: Sequence[int], stage: int) -> list[int]:
    """Seeds of one stage's noise: unrelated to those of the other stage."""
    return [derive_seed(seed, stage) for seed in seeds]


def _lengthen(hidden: Tensor, length: int) -> Tensor:
    """(B, T, W) repeated along T up to `length`, so that prompts of several chunks pair with shorter ones."""
    repeats = math.ceil(length / hidden.shape[1])
    return hidden.repeat(1, repeats, 1)[:, :length]


def _pad(pixels: Tensor, multiple: int) -> Tensor:
    """Repeat the right and bottom edge of (B, 3, H, W) until `multiple` divides the sides."""
    height, width = pixels.shape[-2:]
    return F.pad(pixels, (0, -width % multiple, 0, -height % multiple), mode="replicate")
