"""Draws SVG and raster art as square RGB pictures on white."""

from __future__ import annotations

import io
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image

MARGIN = 0.03
OVERSAMPLING = 2

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Job:
    """A picture to draw: `svg` text, or the `raster` file, at `size` x `size` pixels."""

    svg: str | None
    raster: Path | None
    size: int


def rasterise(svg: str, size: int) -> Image.Image:
    """Draws `svg` (which must have a `viewBox`) as RGBA, its longer side `size` pixels."""
    import resvg_py

    _, _, width, height = (float(part) for part in svg.partition('viewBox="')[2].partition('"')[0].split())
    wide = width >= height
    png = resvg_py.svg_to_bytes(
        svg_string=svg, width=size if wide else None, height=None if wide else size, skip_system_fonts=True
    )
    return Image.open(io.BytesIO(png)).convert("RGBA")


def fit(art: Image.Image, size: int, margin: float = MARGIN) -> Image.Image:
    """Crops transparent borders of RGBA `art`, fits it with `margin` (share of `size`) and centres it on white RGB."""
    box = art.getbbox(alpha_only=True)
    if box is None:
        raise ValueError("The picture is empty: every pixel is transparent.")
    art = art.crop(box)
    room = size * (1 - 2 * margin)
    scale = room / max(art.size)
    width, height = (max(1, round(side * scale)) for side in art.size)
    canvas = Image.new("RGBA", (size, size), "white")
    drawn = art.convert("RGBa").resize((width, height), Image.Resampling.LANCZOS).convert("RGBA")
    canvas.alpha_composite(drawn, ((size - width) // 2, (size - height) // 2))
    return canvas.convert("RGB")


def draw(job: Job) -> Image.Image:
    """Draws one picture: RGB, `job.size` square."""
    if job.svg is not None:
        return fit(rasterise(job.svg, OVERSAMPLING * job.size), job.size)
    with Image.open(job.raster or "") as image:
        return fit(image.convert("RGBA"), job.size)


def encode(job: Job) -> bytes:
    """Draws one picture and returns it as lossless WebP."""
    buffer = io.BytesIO()
    draw(job).save(buffer, "WEBP", lossless=True, method=2)
    return buffer.getvalue()


def spread(
    function: Callable[[Item], Result], items: Sequence[Item], label: str, workers: int | None = None
) -> Iterator[Result]:
    """Maps `function` over `items`, in order, in `workers` processes (one a core by default).

    `function` and `items` are pickled for the workers. A terminal gets a progress bar named `label`.
    """
    from tqdm import tqdm

    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from tqdm(pool.imap(function, items, chunksize=32), label, len(items), disable=None)
