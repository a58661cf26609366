"""The figures by which drawn emoji are judged. Pictures are (N, 3, H, W) in [0, 1].

The folder of the recipe, `recipes/emoji`, must be on the path: its module `recolour` says what a colour is.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import recolour
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

SIDE = 32
"""Pictures are compared at this many pixels a side."""

LUMA = (0.299, 0.587, 0.114)
"""How much red, green and blue count in a grey pixel (ITU-R BT.601)."""


def small(pixels: Tensor) -> Tensor:
    """Pictures as vectors (N, 3 * 32 * 32), each value the mean of the area that it stands for."""
    return F.interpolate(pixels, (SIDE, SIDE), mode="area").flatten(1)


def grey(vectors: Tensor) -> Tensor:
    """The vectors of `small` without hue and saturation: (N, 32 * 32)."""
    return torch.einsum("ncp,c->np", vectors.view(len(vectors), 3, -1), torch.tensor(LUMA))


@dataclass(frozen=True)
class Gallery:
    """Named pictures to find others among: `vectors` (N, D), and of each the index of its name in `names`."""

    vectors: Tensor
    names: list[str]
    index: Tensor

    @classmethod
    def of(cls, vectors: Tensor, labels: Sequence[str]) -> Gallery:
        """The gallery of pictures whose names are `labels`."""
        names = sorted(set(labels))
        place = {name: number for number, name in enumerate(names)}
        return cls(vectors, names, torch.tensor([place[label] for label in labels]))

    def ranks(self, vectors: Tensor, wanted: Sequence[str]) -> list[int]:
        """How many other names lie nearer to each vector than the wanted one does; 0 where the nearest bears it.

        The distance to a name is the least mean squared difference to a picture that bears it. A name at the very same
        distance is not nearer: some pictures of different names are equal (the flags of Norway and Svalbard).
        """
        place = {name: number for number, name in enumerate(self.names)}
        found: list[int] = []
        for vector, name in zip(vectors, wanted, strict=True):
            distances = (self.vectors - vector).square().mean(1)
            nearest = torch.full((len(self.names),), torch.inf).scatter_reduce(0, self.index, distances, "amin")
            found.append(int((nearest < nearest[place[name]]).sum()))
        return found


def within(ranks: Sequence[int], count: int) -> float:
    """The share of ranks that are among the first `count`, in per cent."""
    return 100 * sum(rank < count for rank in ranks) / len(ranks)


def main_colour(picture: Image.Image) -> str | None:
    """The colour word for the hue that dominates a picture, None where none does or no word fits (brown).

    It is the recolouring's own judgement, by which a caption may say "blue": greys, near-blacks and near-whites aside,
    72 % of the pixels must lie within 50 degrees of their mean hue, and its word is the nearest of seven.
    """
    size = (recolour.ANALYSIS_SIZE,) * 2
    art = picture.convert("RGB").resize(size, Image.Resampling.BOX)
    data = art.tobytes()
    pixels = zip(data[::3], data[1::3], data[2::3], strict=True)
    colours = (colorsys.rgb_to_hsv(r / 255, g / 255, b / 255) for r, g, b in pixels)
    art.putalpha(Image.frombytes("L", size, bytes(255 * recolour.is_colourful(colour) for colour in colours)))
    found = recolour.dominant(art)
    return None if found is None else recolour.own_colour(found)


def gradient_energy(pixels: Tensor) -> float:
    """The mean squared difference of neighbours, down plus across: what blur lowers and speckle raises."""
    down, across = pixels.diff(dim=-2), pixels.diff(dim=-1)
    return float(down.square().mean() + across.square().mean())
