"""The cascade: prompt to Stage C to Stage B to Stage A, and a picture's way through the compressor and back."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from littlecascade import __version__
from littlecascade.data.order import derive_seed
from littlecascade.data.pixels import open_picture, to_image, to_rgb, to_tensor
from littlecascade.errors import InputError
from littlecascade.memory.precision import choose_device, choose_dtype
from littlecascade.pipelines.components import Components
from littlecascade.pipelines.model import Model
from littlecascade.pipelines.results import Reconstruction, Result
from littlecascade.pipelines.sampling import OnStep, Settings, draw

Preview = Callable[[], Image.Image]
"""Makes a small picture of what is being drawn; costs time only when called."""

Progress = Callable[[str, int, int, Preview], None]
"""Called after each step with the stage ("c" or "b"), the step's number (from 1), how many there are, and a preview."""

MAX_SEED = 2**63 - 1
BATCH = 8  # pictures that are drawn at a time


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
            raise InputError("Nothing to draw: there is no prompt, or n is 0.")
        seed = secrets.randbelow(2**32) if seed is None else seed
        if not 0 <= seed <= MAX_SEED - len(prompts):
            raise InputError(f"Seed {seed} is out of range: whole numbers from 0 to {MAX_SEED - len(prompts)}.")
        size = self._check_size(size or (self.drawing.image_size, self.drawing.image_size))
        prior = self._prior(sampler=sampler, steps=steps, guidance=guidance)
        seeds = [seed + number for number in range(len(prompts))]

        timer = _Timer()
        drawn: dict[int, tuple[Tensor, Image.Image]] = {}
        for numbers, chunks in self._batches(prompts, negative):
            texts, own = [prompts[at] for at in numbers], [seeds[at] for at in numbers]
            latents, pooled = self._draw_latents(texts, negative, chunks, own, size, prior, timer, callback)
            pixels = self._decode(latents, pooled, own, (size[1], size[0]), timer, callback)
            pictures = [to_image(picture) for picture in pixels]
            drawn |= zip(numbers, zip(latents.cpu(), pictures, strict=True), strict=True)
        ordered = [drawn[at] for at in range(len(prompts))]
        recipes = [self._recipe(text, negative, own, size, prior) for text, own in zip(prompts, seeds, strict=True)]
        stacked = torch.stack([latent for latent, _ in ordered])
        return Result([picture for _, picture in ordered], stacked, recipes, timer.seconds)

    @torch.no_grad()
    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """Pictures of one size to semantic latents (B, 16, ceil(H / 32), ceil(W / 32)), float32 on the CPU."""
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
        height, width = (round(side * self.drawing.compression) for side in latents.shape[-2:])
        if size is not None:
            width, height = size
        seeds = [seed + number for number in range(len(latents))]
        pixels = self._decode(latents.to(self.components.device), None, seeds, (height, width), _Timer(), None)
        return [to_image(picture) for picture in pixels]

    def reconstruct(self, image: Image.Image | str | Path, *, seed: int = 0) -> Reconstruction:
        """A picture through the compressor and back; its longer side is first brought to the model's size."""
        original = to_rgb(image if isinstance(image, Image.Image) else open_picture(image))
        scale = self.drawing.image_size / max(original.size)
        width, height = (max(8, round(length * scale)) for length in original.size)
        original = original.resize((width, height), Image.Resampling.LANCZOS)
        latents = self.encode([original])
        padded = (latents.shape[-1] * 32, latents.shape[-2] * 32)
        drawn = self.decode(latents, size=padded, seed=seed)[0].crop((0, 0, width, height))
        error = (to_tensor(original) - to_tensor(drawn)).square().mean()
        factor = 3 * width * height / latents.numel()
        return Reconstruction(original, drawn, latents, float(-10 * torch.log10(error + 1e-12)), factor)

    def _prior(self, **chosen: Any) -> Settings:
        """Stage C's settings: the model's own, but for what was chosen."""
        own = Settings(self.drawing.sampler, self.drawing.steps, self.drawing.guidance, self.drawing.rescale)
        return replace(own, **{name: value for name, value in chosen.items() if value is not None})

    def _check_size(self, size: tuple[int, int]) -> tuple[int, int]:
        low, high = self.drawing.image_size // 2, self.drawing.image_size * 2
        if not all(low <= side <= high for side in size):
            nearest = "x".join(str(min(max(side, low), high)) for side in size)
            raise InputError(
                f"{size[0]}x{size[1]} is out of reach: {self.components.model.name} draws sides of {low} to {high} "
                f"pixels, best {self.drawing.image_size}. The nearest size is {nearest}."
            )
        return size

    def _batches(self, prompts: Sequence[str], negative: str) -> Iterator[tuple[list[int], int]]:
        """Numbers of prompts that are drawn together, and of the chunks of text that each of them needs."""
        text = self.components.text
        least = text.chunks(negative)
        needs = [max(text.chunks(prompt), least) for prompt in prompts]
        for chunks in sorted(set(needs)):
            alike = [number for number, need in enumerate(needs) if need == chunks]
            for start in range(0, len(alike), BATCH):
                yield alike[start : start + BATCH], chunks

    def _draw_latents(
        self,
        prompts: Sequence[str],
        negative: str,
        chunks: int,
        seeds: Sequence[int],
        size: tuple[int, int],
        prior: Settings,
        timer: _Timer,
        callback: Progress | None,
    ) -> tuple[Tensor, Tensor]:
        """Stage C: latents (B, 16, h, w) for the prompts, and their pooled embeddings (B, 1, P) for Stage B."""
        stage_c = self.components.stage_c
        with timer.part("text"):
            positive = self.components.text.encode(prompts, chunks)
            conditions = stage_c.encode_conditions(positive.hidden, positive.pooled)
            unconditional = None
            if prior.guidance != 1:
                against = self.components.text.encode([negative], chunks)
                unconditional = stage_c.encode_conditions(against.hidden, against.pooled)
        width, height = (math.ceil(side / self.drawing.compression) for side in size)
        shape = (len(prompts), stage_c.config.trunk.in_channels, height, width)
        parametrisation = self.components.parametrisation("stage_c")
        own = [derive_seed(seed, 0) for seed in seeds]
        with timer.part("stage_c"):
            watch = self._watch(callback, "c")
            latents = draw(stage_c, shape, conditions, unconditional, parametrisation, prior, own, watch)
        return latents, positive.pooled

    def _decode(
        self,
        latents: Tensor,
        pooled: Tensor | None,
        seeds: Sequence[int],
        size: tuple[int, int],
        timer: _Timer,
        callback: Progress | None,
    ) -> Tensor:
        """(B, 3, H, W) for `size` (H, W): Stage B and A draw all that the latents cover, and the middle is cut out."""
        stage_b, stage_a = self.components.stage_b, self.components.stage_a
        height, width = (8 * math.ceil(side * self.drawing.compression / 8) for side in latents.shape[-2:])
        inner = (max(height, size[0]) // 4, max(width, size[1]) // 4)
        conditions = stage_b.encode_conditions(latents, pooled, size=inner)
        shape = (len(latents), stage_b.config.trunk.in_channels, *inner)
        settings = Settings(self.drawing.decoder_sampler, self.drawing.decoder_steps)
        parametrisation = self.components.parametrisation("stage_b")
        own = [derive_seed(seed, 1) for seed in seeds]
        with timer.part("stage_b"):
            watch = self._watch(callback, "b", latents)
            drawn = draw(stage_b, shape, conditions, None, parametrisation, settings, own, watch)
        with timer.part("stage_a"):
            pixels = stage_a.decode(drawn).float().cpu()
        top, left = (pixels.shape[-2] - size[0]) // 2, (pixels.shape[-1] - size[1]) // 2
        return pixels[..., top : top + size[0], left : left + size[1]]

    def _watch(self, callback: Progress | None, stage: str, latents: Tensor | None = None) -> OnStep | None:
        """Carries a sampler's steps to `callback`; the preview shows `latents`, or else the current estimate of x0."""
        if callback is None:
            return None

        def on_step(step: int, steps: int, x0: Tensor) -> None:
            shown = (x0 if latents is None else latents)[:1]
            callback(stage, step, steps, lambda: to_image(self.components.previewer(shown)[0]))

        return on_step

    def _recipe(self, prompt: str, negative: str, seed: int, size: tuple[int, int], prior: Settings) -> dict[str, Any]:
        return {
            "littlecascade": __version__,
            "model": self.components.model.name,
            "model_digest": self.components.model.digest,
            "prompt": prompt,
            "negative": negative,
            "seed": seed,
            "size": list(size),
            "steps": prior.steps,
            "sampler": prior.sampler,
            "guidance": prior.guidance,
            "precision": str(self.components.dtype).removeprefix("torch."),
        }


class _Timer:
    """Seconds by part, summed over batches."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def _pad(pixels: Tensor, multiple: int) -> Tensor:
    """Repeat the right and bottom edge of (B, 3, H, W) until `multiple` divides the sides."""
    height, width = pixels.shape[-2:]
    return F.pad(pixels, (0, -width % multiple, 0, -height % multiple), mode="replicate")
