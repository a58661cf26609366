from __future__ import annotations

import pytest

from littlecascade.errors import InputError
from littlecascade.training.batch import fitted, micro_batch

CASES = [(size, steps, world) for size in range(1, 25) for steps in range(1, 13) for world in (1, 2, 3, 8)]


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_a_micro_batch_times_all_else_is_the_batch(world: int) -> None:
    for size, steps, processes in CASES:
        if processes != world:
            continue
        if size % (steps * world):
            with pytest.raises(InputError, match="does not divide"):
                micro_batch(size, steps, world)
        else:
            assert micro_batch(size, steps, world) * steps * world == size


def test_what_is_fitted_divides_and_is_the_nearest_that_does() -> None:
    for size, steps, world in CASES:
        fit_size, fit_steps = fitted(size, steps, world)
        assert micro_batch(fit_size, fit_steps, world) >= 1
        shared = range(world, 30 * world, world)
        assert abs(fit_size - size) == min(abs(choice - size) for choice in shared)
        if size % world == 0:
            assert fit_size == size
        if size % (steps * world) == 0:
            assert (fit_size, fit_steps) == (size, steps)
        share = fit_size // world
        at_most = [choice for choice in range(1, share + 1) if share % choice == 0 and choice >= steps]
        assert fit_steps == (min(at_most) if at_most else share)


def test_the_message_names_both_neighbours_and_the_fit() -> None:
    with pytest.raises(InputError, match=r"2 processes x grad_accum_steps 3 = 6 micro-batches; .*: 12 and 18\."):
        micro_batch(16, 3, processes=2)
    with pytest.raises(InputError, match=r"batch_size 1 .*: 4\. `--fit` takes grad_accum_steps 1\."):
        micro_batch(1, 4)
    with pytest.raises(InputError, match=r"`--fit` takes batch_size 8 and grad_accum_steps 1\."):
        micro_batch(6, 1, processes=4)
