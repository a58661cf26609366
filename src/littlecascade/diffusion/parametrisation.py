"""What a network was trained to predict and over which schedule: all that sampling has to know of its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from littlecascade.diffusion.process import EPSILON, TARGETS, Target
from littlecascade.diffusion.schedule import CosineSchedule
from littlecascade.errors import InputError, suggest


@dataclass(frozen=True)
class Parametrisation:
    """The official networks': noise, over the unshifted cosine schedule."""

    target: Target = EPSILON
    schedule: CosineSchedule = CosineSchedule()

    def notes(self) -> dict[str, str]:
        """As strings, to be stored beside the weights."""
        return {"target": self.target.name, "shift": str(self.schedule.shift)}

    @classmethod
    def from_notes(cls, notes: Mapping[str, str]) -> Self:
        """What `notes` wrote; the official networks' where nothing was written.

        Raises `InputError` for a target that there isn't, as a newer version may have written it.
        """
        target, shift = notes.get("target", EPSILON.name), float(notes.get("shift", "1"))
        if target not in TARGETS:
            raise InputError(
                f"These weights predict {target!r}; known: {', '.join(TARGETS)}.{suggest(target, TARGETS)}"
            )
        return cls(TARGETS[target], CosineSchedule(shift=shift))
