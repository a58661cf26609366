"""Sizes: which can be drawn, and where a picture lies in what the networks draw."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch.nn.functional as F
from torch import Tensor

from littlecascade.errors import InputError

CHANNELS = 16
"""Of the semantic latents."""
COMPRESSOR = 32
"""Pixels per semantic latent, along a side, in the picture that the compressor reads."""
STAGE_A = 4
"""Pixels per latent of Stage A, along a side."""

SHORTEST = 1 / 4
LONGEST = 8
LARGEST = 4
"""Of a picture: its shorter side at least, in sides of the model's own square; its longer side at most, in shorter
ones; its area at most, in areas of that square."""

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class Frame:
    """A picture in the middle of what is drawn.

    A picture needs so many latents that they cover it and a little more. All that they cover is drawn, to the nearest 8
    pixels, and the picture is cut out of it, so that no size stretches what it shows.

    latents: rows and columns of Stage C's latents. drawn: (H, W) in pixels, multiples of 8, that they stand for.
    """

    size: Size
    latents: tuple[int, int]
    drawn: tuple[int, int]

    @classmethod
    def of(cls, size: Size, compression: float) -> Self:
        """The frame of a picture that is drawn with one latent per `compression` pixels."""
        width, height = size
        latents = math.ceil(height / compression), math.ceil(width / compression)
        drawn = _drawn(height, latents[0] * compression), _drawn(width, latents[1] * compression)
        return cls(size, latents, drawn)

    @classmethod
    def around(cls, latents: tuple[int, int], size: Size | None, compression: float) -> Self:
        """The frame of a picture that is drawn from given latents.

        Without a size it shows all that they cover. Where a size asks for other latents, these are stretched.
        """
        if size is None:
            size = round(latents[1] * compression), round(latents[0] * compression)
        frame = cls.of(size, compression)
        return frame if frame.latents == latents else cls(size, latents, (_ceil8(size[1]), _ceil8(size[0])))

    @property
    def stage_a(self) -> tuple[int, int]:
        """Height and width of Stage A's latents."""
        return self.drawn[0] // STAGE_A, self.drawn[1] // STAGE_A

    def cut(self, pixels: Tensor) -> Tensor:
        """The picture (B, 3, height, width) out of all that was drawn (B, 3, H, W)."""
        (width, height), (top, left) = self.size, self._corner
        return pixels[..., top : top + height, left : left + width]

    def fill(self, pixels: Tensor) -> Tensor:
        """What the compressor reads of a picture (B, 3, height, width): its edges repeated up to the whole frame, and
        that brought to 32 pixels per latent, (B, 3, 32 rows, 32 columns)."""
        (width, height), (top, left) = self.size, self._corner
        right, bottom = self.drawn[1] - width - left, self.drawn[0] - height - top
        whole = F.pad(pixels, (left, right, top, bottom), mode="replicate")
        rows, columns = self.latents
        wanted = COMPRESSOR * rows, COMPRESSOR * columns
        if wanted == self.drawn:
            return whole
        return F.interpolate(whole, wanted, mode="bicubic", antialias=True).clamp(0, 1)

    @property
    def _corner(self) -> tuple[int, int]:
        return (self.drawn[0] - self.size[1]) // 2, (self.drawn[1] - self.size[0]) // 2


def nearest_size(size: Size, side: int) -> Size:
    """The size closest to `size` that a model of `side` x `side` pixels draws; `size` itself if it does.

    >>> nearest_size((1280, 768), 1024), nearest_size((4096, 4096), 1024), nearest_size((100000, 64), 128)
    ((1280, 768), (2048, 2048), (512, 64))
    """
    short = math.ceil(side * SHORTEST)
    width, height = (max(length, short) for length in size)
    width, height = min(width, LONGEST * height), min(height, LONGEST * width)
    excess = width * height / (LARGEST * side**2)
    if excess > 1:
        width, height = (int(length / math.sqrt(excess)) for length in (width, height))
        width, height = min(width, LONGEST * height), min(height, LONGEST * width)
    return width, height


def check_size(size: Size, side: int, name: str) -> Size:
    """`size`, if the model `name` of `side` x `side` pixels draws it. Raises `InputError` that names the nearest."""
    nearest = nearest_size(size, side)
    if nearest == tuple(size):
        return nearest
    raise InputError(
        f"{size[0]}x{size[1]} is out of reach: {name} draws {side}x{side} pixels at its best, sides from "
        f"{math.ceil(side * SHORTEST)}, at most {LONGEST} times as long as wide and of {LARGEST} times that area. "
        f"The nearest size is {nearest[0]}x{nearest[1]}."
    )


def size_like(shape: Size, side: int) -> Size:
    """A size of a picture's shape, to 8 pixels, and of the area of `side` x `side`.

    Raises `InputError` for a shape that is too long.

    >>> size_like((4000, 3000), 1024), size_like((64, 64), 128)
    ((1184, 888), (128, 128))
    """
    if max(shape) > LONGEST * min(shape):
        raise InputError(
            f"A picture of {shape[0]}x{shape[1]} pixels is too long: at most {LONGEST} times as long as wide can be "
            "drawn. Crop it, or give a size that it is cropped to."
        )
    scale = side / math.sqrt(shape[0] * shape[1])
    return nearest_size((_round8(shape[0] * scale), _round8(shape[1] * scale)), side)


def _drawn(length: int, covered: float) -> int:
    """How many pixels are drawn of those that latents cover: a multiple of 8, and no fewer than the picture has."""
    return max(_round8(covered), _ceil8(length))


def _round8(length: float) -> int:
    return 8 * round(length / 8)


def _ceil8(length: int) -> int:
    return 8 * math.ceil(length / 8)
