"""What a check can find."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What can be the matter with a sample or a member."""

    DAMAGED = "damaged"
    UNCAPTIONED = "no caption"
    EMPTY = "empty caption"
    LONG = "long caption"
    COPY = "duplicate"
    ALIKE = "look-alike"
    BLURRED = "blurred"
    SMALL = "too small"
    CLASH = "name clash"
    LEFT_OUT = "left out"
    """No problem, but worth knowing: a member that belongs to no sample."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`name` is the sample's or the member's; `detail` says what was found, or is empty."""

    kind: Kind
    name: str
    detail: str = ""
