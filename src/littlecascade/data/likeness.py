"""What a picture looks like: a hash and a colour that copies of it share, how sharp it is, how far two differ."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

BITS = 64
BLURRED = 20.0
"""A picture whose `sharpness` is lower counts as blurred.

Of 20 sharp photographs and scans the softest has 65 and the median is 1,100; blurred by 0.4 % of their longer side,
their median is 9, by 0.6 % 3.
"""
LONGER_SIDE = 512
_GAP = 2.0  # what Pillow may shrink to by plain averages before it filters, in sizes of the result
_BLACK, _WHITE = 4, 251  # levels beyond which brightening has cut values off
_STIFF = 25  # of the fit: where a picture has less contrast than these levels squared, it is not changed much
_GAIN, _OFFSET = 4 / 3, 30  # how much contrast and brightness (in levels) of copies may differ
_FLAT = 2  # neighbours that differ by fewer grey levels count as equal, so that noise in a plain area is not seen
SMALL_SHAPE = (32, 32, 3)
Small = np.ndarray[Any, np.dtype[np.uint8]]
"""A picture for `difference`, of `SMALL_SHAPE`."""
Levels = np.ndarray[Any, np.dtype[np.float32]]


def reduced(image: Image.Image) -> Image.Image:
    """The picture in grey, brought down to 512 pixels on its longer side; a smaller one is not enlarged.

    `fingerprint` and `sharpness` give the same for it as for the picture, so that who needs both reduces once.
    """
    grey = image.convert("L")
    grey.thumbnail((LONGER_SIDE, LONGER_SIDE), Image.Resampling.BOX, reducing_gap=None)
    return grey


def fingerprint(image: Image.Image) -> int:
    """A 64-bit difference hash: of 8 x 9 grey areas, whether each is brighter than its left neighbour.

    Pictures that were resized, compressed or lightened differ in few bits, others in about half of them; colour is not
    seen. The picture should be upright and without transparency, as `to_rgb` makes it.
    """
    areas = reduced(image).convert("F").resize((9, 8), Image.Resampling.BILINEAR)
    levels = np.asarray(areas)
    brighter = levels[:, 1:] - levels[:, :-1] >= _FLAT
    return int.from_bytes(np.packbits(brighter).tobytes())


def mean_colour(image: Image.Image) -> int:
    """The mean of all pixels of an RGB picture, as 0xRRGGBB."""
    return int.from_bytes(image.resize((1, 1), Image.Resampling.BOX, reducing_gap=_GAP).tobytes())


def sharpness(image: Image.Image) -> float:
    """The variance of the Laplacian of the grey picture at 512 pixels on its longer side, as `reduced` makes it.

    0 for a plain area. What lies below `BLURRED` lacks fine detail at that size.
    """
    levels = np.asarray(reduced(image), dtype=np.int16)  # holds all sums, and is much quicker than floating point
    if min(levels.shape) < 3:
        return 0.0
    around = levels[:-2, 1:-1] + levels[2:, 1:-1] + levels[1:-1, :-2] + levels[1:-1, 2:]
    return float((around - 4 * levels[1:-1, 1:-1]).astype(np.float32).var())


def small(image: Image.Image) -> Small:
    """An RGB picture of any shape, as (32, 32, 3) levels."""
    return np.asarray(image.resize(SMALL_SHAPE[:2], Image.Resampling.BOX, reducing_gap=_GAP))


def difference(one: Small, other: Small) -> float:
    """By how many levels two pictures differ where neither is a lighter or slightly moved version of the other.

    Each pixel but those at the edges is held against the range of its nine neighbours in the other picture, so that
    cropping a little and resizing count for little, once one picture has the other's brightness and contrast. Of the
    channels the one that differs most counts; of the pixels the root of the mean square; of the two ways to match
    brightness the better.

    >>> plain, spot = np.full(SMALL_SHAPE, 100, np.uint8), np.full(SMALL_SHAPE, 100, np.uint8)
    >>> spot[8:16, 8:16] = 200
    >>> difference(plain, plain + 25), difference(plain, spot) > 8
    (0.0, True)
    """
    first, second = one.astype(np.float32), other.astype(np.float32)
    return min(_unlike(_matched(first, second), second), _unlike(_matched(second, first), first))


def _matched(one: Levels, other: Levels) -> Levels:
    """One picture in the brightness and contrast of the other, by least squares where that is not cut off."""
    counts = (other > _BLACK) & (other < _WHITE)
    if not counts.any():
        return one
    x, y = one[counts], other[counts]
    gain = ((x - x.mean()) * (y - y.mean())).mean() + _STIFF
    gain = np.clip(gain / (x.var() + _STIFF), 1 / _GAIN, _GAIN)
    return np.clip(one * gain + np.clip(y.mean() - gain * x.mean(), -_OFFSET, _OFFSET), 0, 255)


def _unlike(one: Levels, other: Levels) -> float:
    beyond = np.maximum(_beyond(one, other), _beyond(other, one))
    return float(np.sqrt((beyond.max(-1) ** 2).mean()))


def _beyond(one: Levels, other: Levels) -> Levels:
    """How far each pixel of one picture but for its edges lies outside the range of its neighbours in the other."""
    inside = one[1:-1, 1:-1]
    lowest, highest = _of_nine(other, np.minimum), _of_nine(other, np.maximum)
    return np.maximum(np.maximum(inside - highest, lowest - inside), 0)


def _of_nine(values: Levels, choose: Any) -> Levels:
    rows = choose(choose(values[:-2], values[1:-1]), values[2:])
    return choose(choose(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])
