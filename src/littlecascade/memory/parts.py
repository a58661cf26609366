"""Working on a large tensor a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

SMALLEST = 1 << 12
"""Values that a tensor must have to be worth packing or moving; in smaller ones there is little to save."""

ON_CPU, ELSEWHERE = 1 << 18, 1 << 22
"""Values that are worked on at once: as many as a CPU's cache holds, and enough for a GPU not to wait for orders."""


def in_parts(tensor: Tensor) -> Iterator[slice]:
    """Slices of rows that follow each other, so that what is made of each on the way stays small."""
    at_once = ON_CPU if tensor.device.type == "cpu" else ELSEWHERE
    step = max(1, at_once * len(tensor) // max(1, tensor.numel()))
    return (slice(start, start + step) for start in range(0, len(tensor), step))
