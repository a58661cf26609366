"""Sizes for pictures of many shapes: a few shapes of nearly one area, so that a batch has one of them.

The semantics are those of the official release: sides are rounded down to multiples, and a picture goes to the bucket
whose ratio of width to height is nearest to its own, where it is resized to cover and cropped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from littlecascade.errors import InputError

OFFICIAL = ("1/1", "1/2", "1/3", "2/3", "3/4", "1/5", "2/5", "3/5", "4/5", "1/6", "5/6", "9/16")
"""The ratios of the official release's configurations; each also counts turned over."""
_RATIO = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:[/:]\s*(\d+(?:\.\d+)?)\s*)?")

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class Buckets:
    """side: of the square with the area that all buckets have about. ratios: of width to height.

    >>> Buckets(768, parse_ratios(["1/1", "16/9"])).sizes
    ((768, 768), (576, 1024), (1024, 576))
    """

    side: int
    ratios: tuple[float, ...] = (1.0,)
    multiple: int = 32

    @cached_property
    def sizes(self) -> tuple[Size, ...]:
        """Of each bucket, in the order of the ratios. Raises `InputError` where a side comes to nothing."""
        sizes: list[Size] = []
        for ratio in self.ratios:
            width, height = (
                self.multiple * int(math.sqrt(self.side**2 * factor) // self.multiple) for factor in (ratio, 1 / ratio)
            )
            if not width or not height:
                raise InputError(
                    f"A ratio of {ratio:g} at {self.side} pixels leaves no side of {self.multiple} or more: take a "
                    "larger image_size (--size) or leave it out of multi_aspect_ratio (--ratios)."
                )
            sizes.append((width, height))
        return tuple(sizes)

    def nearest(self, width: int, height: int) -> Size:
        """The bucket of a picture."""
        distances = [abs(ratio - width / height) for ratio in self.ratios]
        return self.sizes[distances.index(min(distances))]


def parse_ratios(texts: Sequence[str | float]) -> tuple[float, ...]:
    """Ratios of width to height, written 16/9 or 1.5, each followed by itself turned over, none twice.

    Raises `InputError` for what is no ratio.

    >>> parse_ratios(["1/1", "1/2", 2])
    (1.0, 0.5, 2.0)
    """
    ratios: dict[float, None] = {}
    for text in texts:
        match = _RATIO.fullmatch(str(text))
        numbers = [float(part or 1) for part in match.groups()] if match else [0.0]
        if not all(numbers):
            raise InputError(f"{text!r} is no ratio of width to height: write it as 16/9.")
        ratio = numbers[0] / numbers[1]
        ratios |= {min(ratio, 1 / ratio): None, max(ratio, 1 / ratio): None}
    return tuple(ratios)
