"""What a picture looks like, in two numbers: a hash that copies of it share, and how sharp it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
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
_SAME_COLOUR = 12  # levels of each channel: compression and resizing change a mean colour by 8 at the most
_FLAT = 2  # neighbours that differ by fewer grey levels count as equal, so that noise in a plain area is not seen


Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""


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


def mean_colour(image: Image.Image) -> Colour:
    """The mean of all pixels."""
    red, green, blue = np.asarray(image.convert("RGB").resize((1, 1), Image.Resampling.BOX))[0, 0].tolist()
    return red, green, blue


def near(fingerprints: Sequence[int], distance: int = 4, *, colours: Sequence[Colour] | None = None) -> list[list[int]]:
    """Groups of two or more indices whose fingerprints differ in at most `distance` (0 to 16) bits.

    Groups are linked: two members may be further apart if others lie between them. Each index is in one group at the
    most; groups and their members are in rising order. With the pictures' mean `colours`, groups are divided further,
    into pictures of about the colour of the first: one shape in several colours is no group.

    >>> near([0b1000, 0b11110000, 0b1001, 0b11111111], distance=1)
    [[0, 2]]
    """
    if not 0 <= distance <= 16:
        raise ValueError(f"a distance of {distance} bits is not from 0 to 16")
    if not fingerprints:
        return []
    hashes, owner = np.unique(np.array(fingerprints, dtype=np.uint64), return_inverse=True)
    parents = list(range(len(hashes)))
    for first, second in _close_pairs(hashes, distance):
        one, other = _root(parents, first), _root(parents, second)
        parents[max(one, other)] = min(one, other)
    linked: dict[int, list[int]] = {}
    for index, place in enumerate(owner.tolist()):
        linked.setdefault(_root(parents, place), []).append(index)
    groups = list(linked.values())
    if colours is not None:
        groups = sorted(part for group in groups for part in _by_colour(group, colours))
    return [group for group in groups if len(group) > 1]


def sharpness(image: Image.Image) -> float:
    """The variance of the Laplacian of the grey picture at 512 pixels on its longer side, as `reduced` makes it.

    0 for a plain area. What lies below `BLURRED` lacks fine detail at that size.
    """
    levels = np.asarray(reduced(image), dtype=np.int16)  # holds all sums, and is much quicker than floating point
    if min(levels.shape) < 3:
        return 0.0
    around = levels[:-2, 1:-1] + levels[2:, 1:-1] + levels[1:-1, :-2] + levels[1:-1, 2:]
    return float((around - 4 * levels[1:-1, 1:-1]).astype(np.float32).var())


def _close_pairs(hashes: np.ndarray[Any, Any], distance: int) -> Iterator[tuple[int, int]]:
    """Indices of all pairs of distinct hashes that are at most `distance` bits apart; some come more than once.

    The bits are dealt out to distance + 2 blocks. Differing bits can spoil `distance` of them at the most, so that such
    a pair has two equal blocks: only hashes that share two blocks are compared.
    """
    blocks = distance + 2
    masks = [sum(1 << bit for bit in range(block, BITS, blocks)) for block in range(blocks)]
    for one, other in combinations(masks, 2):
        keys = hashes & np.uint64(one | other)
        order = np.argsort(keys, kind="stable")
        keys, ordered = keys[order], hashes[order]
        places = np.arange(len(order) - 1)
        step = 1
        while len(places := places[keys[places] == keys[places + step]]):
            close = places[_within(ordered[places] ^ ordered[places + step], distance)]
            yield from zip(order[close].tolist(), order[close + step].tolist(), strict=True)
            step += 1
            places = places[places < len(order) - step]


def _within(differences: np.ndarray[Any, Any], distance: int) -> np.ndarray[Any, Any]:
    """Whether each number has at most `distance` bits set."""
    for _ in range(distance):
        differences = differences & (differences - np.uint64(1))  # clears the lowest bit
    return differences == 0


def _by_colour(group: Sequence[int], colours: Sequence[Colour]) -> list[list[int]]:
    parts: list[list[int]] = []
    for index in group:
        for part in parts:
            if all(abs(a - b) <= _SAME_COLOUR for a, b in zip(colours[part[0]], colours[index], strict=True)):
                part.append(index)
                break
        else:
            parts.append([index])
    return parts


def _root(parents: list[int], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index
