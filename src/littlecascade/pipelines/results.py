"""What the cascade gives back."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor

from littlecascade.checkpoint import files
from littlecascade.errors import InputError
from littlecascade.recipe import Recipe

_LATENTS, _RECIPES = "latents", "recipes"


class StopDrawing(Exception):  # noqa: N818 - a request, not an error
    """Raise it in a callback to stop: what was finished is returned, in a `Result` that says so."""


@dataclass(frozen=True)
class Result:
    """Pictures, and how they came about; everything in the order in which it was asked for.

    latents: (N, 16, h, w) of Stage C, float32. recipes: what it takes to draw each picture again. timings: seconds by
    part. peak_memory: the most bytes that the process has held so far, or on a GPU that this call took there.
    originals, metrics: of reconstructions, the pictures as they went in, and what `metrics.compare` says of each.
    stopped: whether a callback stopped it, so that only the pictures finished by then are here.
    """

    images: list[Image.Image]
    latents: Tensor
    recipes: list[Recipe]
    timings: dict[str, float]
    peak_memory: int
    originals: list[Image.Image] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)
    stopped: bool = False

    @property
    def recipe(self) -> Recipe:
        """The recipe of the first picture."""
        return self.recipes[0]

    @property
    def side_by_side(self) -> Image.Image:
        """Each original on the left of its reconstruction, one pair below the other."""
        return sheet([image for pair in zip(self.originals, self.images, strict=True) for image in pair], columns=2)

    def grid(self, columns: int | None = None, gap: int = 0) -> Image.Image:
        """All pictures on one white sheet, row by row, in about as many columns as rows unless told how many."""
        return sheet(self.images, columns, gap)

    def save_latents(self, path: str | os.PathLike[str]) -> None:
        """Write the latents, and the recipes beside them, to a safetensors file that `load_latents` reads."""
        files.save(path, {_LATENTS: self.latents}, {_RECIPES: json.dumps(self.recipes, ensure_ascii=False)})


def load_latents(path: str | os.PathLike[str]) -> Tensor:
    """Latents (N, 16, h, w) that `Result.save_latents` wrote. Raises `InputError` for a file of something else."""
    tensors = files.load(path)
    if _LATENTS not in tensors or tensors[_LATENTS].ndim != 4:
        raise InputError(f"{path} holds no latents: they are one tensor (N, 16, h, w) of the name {_LATENTS!r}.")
    return tensors[_LATENTS].float()


def sheet(images: list[Image.Image], columns: int | None = None, gap: int = 0) -> Image.Image:
    """Pictures in rows on white, each in the middle of a cell as large as the largest of them."""
    if not images:
        raise InputError("There is no picture to put on a sheet.")
    columns = min(len(images), columns or math.ceil(math.sqrt(len(images))))
    width, height = max(image.width for image in images), max(image.height for image in images)
    rows = math.ceil(len(images) / columns)
    canvas = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for number, image in enumerate(images):
        left = number % columns * (width + gap) + (width - image.width) // 2
        top = number // columns * (height + gap) + (height - image.height) // 2
        canvas.paste(image, (left, top))
    return canvas
