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

    @property
    def is_problem(self) -> bool:
        """Whether a data set should be mended: look-alikes may be meant, members of no sample do no harm."""
        return self not in (Kind.ALIKE, Kind.LEFT_OUT)


@dataclass(frozen=True, slots=True)
class Finding:
    """`name` is the sample's or the member's; `detail` says what was found, or is empty."""

    kind: Kind
    name: str
    detail: str = ""
