"""From a picture's shape to the shape that it has in a data set: what is cut off, and what size the rest becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from littlecascade.data.buckets import OFFICIAL, Buckets, Size, parse_ratios
from littlecascade.data.pictures import cut, shrink_while_decoding, to_rgb, upright_size
from littlecascade.errors import InputError, suggest

FITS = ("width", "short", "long", "bucket")
CROPS = ("none", "center", "square", "smart")
FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}
Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels of the upright picture."""

_SURVEYED = 256  # pixels of the longer side at which detail is looked for


@dataclass(frozen=True)
class Fit:
    """How pictures are brought to size.

    size: in pixels; of the width, the short or the long side, or of a square with a bucket's area.
    fit: one of `FITS`, which says of what. crop: one of `CROPS`. `none` keeps all of it; `center` and `smart` cut
    it to its bucket's shape, or to a square where there are no buckets; `square` always to a square. `smart` takes
    the place with the most detail, the others the middle. filter: one of `FILTERS`. ratios: of the buckets.
    """

    size: int = 512
    fit: str = "width"
    crop: str = "none"
    filter: str = "lanczos"
    ratios: tuple[str, ...] = OFFICIAL

    def __post_init__(self) -> None:
        """Raises `InputError` for a name that is none, and for what can't go together."""
        _check("fit", self.fit, FITS)
        _check("crop", self.crop, CROPS)
        _check("filter", self.filter, tuple(FILTERS))
        if self.size < 1:
            raise InputError(f"A size of {self.size} pixels leaves nothing: take at least 1.")
        if self.fit == "bucket":
            if self.crop == "none":
                raise InputError(
                    "Buckets have shapes of their own, so pictures are cut to them: crop by center or smart."
                )
            across, down = self.buckets.nearest(1, 1)
            if self.crop == "square" and across != down:
                raise InputError("There is no square among the buckets: crop by center or smart, or add the ratio 1/1.")

    @cached_property
    def buckets(self) -> Buckets:
        """The sizes that pictures go to with `fit` bucket."""
        return Buckets(self.size, parse_ratios(self.ratios))

    def plan(self, width: int, height: int) -> tuple[Size, Size]:
        """How much of an upright picture is kept, the largest part with the wanted shape, and the size it becomes."""
        if self.fit == "bucket":
            bucket = self.buckets.nearest(*((1, 1) if self.crop == "square" else (width, height)))
            return _largest(width, height, bucket), bucket
        across, down = (width, height) if self.crop == "none" else _largest(width, height, (1, 1))
        side = {"width": across, "short": min(across, down), "long": max(across, down)}[self.fit]
        target = max(1, round(across * self.size / side)), max(1, round(down * self.size / side))
        return (across, down), target


@dataclass(frozen=True)
class Fitted:
    """An RGB picture of the wanted size, and the part of the upright original that it shows."""

    image: Image.Image
    original: Size
    box: Box

    @property
    def enlarged(self) -> bool:
        """Whether it has more pixels than there were."""
        return self.image.width > self.box[2] - self.box[0] or self.image.height > self.box[3] - self.box[1]


def fitted(opened: Image.Image, fit: Fit, background: str = "white") -> Fitted:
    """Bring a picture, as `Image.open` gives it, to size. Transparent parts are laid over `background`.

    Not yet decoded JPEG files are decoded no larger than it takes. Whatever a broken file makes Pillow raise is raised.
    """
    original = width, height = upright_size(opened)
    window, target = fit.plan(width, height)
    if fit.filter != "nearest":
        shrink_while_decoding(opened, max(target[0] / window[0], target[1] / window[1]))
    image = to_rgb(opened, background)
    left, top = _place(image, original, window, smart=fit.crop == "smart")
    box = (left, top, left + window[0], top + window[1])
    return Fitted(cut(image, original, box, target, FILTERS[fit.filter]), original, box)


def most_detailed(image: Image.Image, share: float, *, across: bool) -> float:
    """Where a window that slides over a picture shows the most detail: its first edge, as a share of the side.

    The window has `share` (0 to 1) of the width if `across`, else of the height, and all of the other side. Detail is
    the magnitude of the gradient. Of windows that are equally good, the one nearest to the middle is taken.
    """
    grey = image.convert("L")
    grey.thumbnail((_SURVEYED, _SURVEYED), Image.Resampling.BOX)
    levels = np.asarray(grey, dtype=np.float32)
    down, right = np.gradient(np.pad(levels, 1, mode="edge"))
    magnitude = np.hypot(down, right)[1:-1, 1:-1]
    detail = _running_sum(magnitude.sum(axis=0 if across else 1))
    length = len(detail) - 1
    window = min(length, max(1, round(share * length)))
    totals = detail[window:] - detail[: length - window + 1]
    best = np.flatnonzero(totals >= totals.max() - 1e-6 * detail[-1])
    return best[np.abs(best - (length - window) / 2).argmin()] / length


def _largest(width: int, height: int, shape: Size) -> Size:
    """The largest window into a picture that has the shape of `shape`."""
    across, down = round(height * shape[0] / shape[1]), round(width * shape[1] / shape[0])
    return min(width, max(1, across)), min(height, max(1, down))


def _place(image: Image.Image, size: Size, window: Size, *, smart: bool) -> tuple[int, int]:
    """Left and top of the window in an upright picture of `size`, of which `image` is a version of any scale."""
    free = size[0] - window[0], size[1] - window[1]
    if not smart or free == (0, 0):
        return free[0] // 2, free[1] // 2
    axis = 0 if free[0] >= free[1] else 1
    first = most_detailed(image, window[axis] / size[axis], across=axis == 0)
    place = min(free[axis], round(first * size[axis]))
    return (place, free[1] // 2) if axis == 0 else (free[0] // 2, place)


def _running_sum(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Sums of the first 0, 1, 2, ... values."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _check(what: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InputError(f"There is no {what} {value!r}.{suggest(value, choices)} Those are {', '.join(choices)}.")
