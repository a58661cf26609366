from __future__ import annotations

import pytest

from littlecascade.diffusion.parametrisation import Parametrisation
from littlecascade.diffusion.process import EPSILON, TARGETS, Target
from littlecascade.diffusion.schedule import CosineSchedule
from littlecascade.errors import InputError


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("shift", [1.0, 0.5, 1 / 3])
def test_notes_tell_all(target: Target, shift: float) -> None:
    own = Parametrisation(target, CosineSchedule(shift=shift))
    assert all(type(value) is str for value in own.notes().values())
    assert Parametrisation.from_notes(own.notes()) == own


def test_official_weights_carry_no_notes() -> None:
    assert Parametrisation.from_notes({}) == Parametrisation(EPSILON, CosineSchedule(shift=1.0))


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(InputError, match=r"predict 'epsilom'; known: .* Did you mean 'epsilon'\?"):
        Parametrisation.from_notes({"target": "epsilom"})
