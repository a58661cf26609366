from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDPMWuerstchenScheduler
from hypothesis import given
from hypothesis import strategies as st

from littlecascade.diffusion.schedule import CosineSchedule
from littlecascade.errors import InputError

SHIFTS = st.floats(0.25, 4.0)
TIMES = st.floats(0.0, 1.0)


def test_alpha_squared_is_that_of_diffusers():
    t = torch.linspace(0, 1, 101)
    theirs = DDPMWuerstchenScheduler()._alpha_cumprod(t, torch.device("cpu"))
    torch.testing.assert_close(CosineSchedule().logsnr(t).sigmoid(), theirs, rtol=0, atol=3e-7)


@given(TIMES)
def test_logsnr_is_the_textbook_formula_in_double_precision(t: float):
    s = 0.008
    squared = math.cos((t + s) / (1 + s) * math.pi / 2) ** 2 / math.cos(s / (1 + s) * math.pi / 2) ** 2
    squared = min(max(squared, 1e-4), 0.9999)
    expected = math.log(squared / (1 - squared))
    schedule = CosineSchedule()
    assert schedule.logsnr(torch.tensor(t, dtype=torch.float64)).item() == pytest.approx(expected, abs=1e-9)
    # In float32 the logit of alpha^2 itself would be off by up to 6e-4. Where the curve is steep, t's rounding shows.
    assert schedule.logsnr(torch.tensor(t)).item() == pytest.approx(expected, abs=5e-5)


@given(st.floats(0.003, 0.993), SHIFTS)
def test_position_inverts_logsnr_within_the_limits(t: float, shift: float):
    schedule = CosineSchedule(shift=shift)
    logsnr = schedule.logsnr(torch.tensor(t))
    low, high = schedule.limits
    if low + 1e-4 < logsnr < high - 1e-4:
        assert schedule.position(logsnr).item() == pytest.approx(t, abs=1e-6)


@given(st.floats(-9.21, 9.21))
def test_time_inverts_the_unshifted_schedule_and_knows_no_shift(logsnr: float):
    level = torch.tensor(logsnr)
    time = CosineSchedule(shift=3.0).time(level)
    assert time == CosineSchedule().time(level)
    assert CosineSchedule().logsnr(time.double()).item() == pytest.approx(logsnr, abs=1e-3)


@given(st.floats(0.05, 0.95), SHIFTS)
def test_shift_adds_its_logarithm_until_the_limits(t: float, shift: float):
    time = torch.tensor(t, dtype=torch.float64)
    schedule = CosineSchedule(shift=shift)
    low, high = schedule.limits
    expected = min(max(CosineSchedule().logsnr(time).item() + 2 * math.log(1 / shift), low), high)
    assert schedule.logsnr(time).item() == pytest.approx(expected, abs=1e-12)


def test_shift_is_the_ratio_of_the_noise_levels():
    """Twice the noise per data: the SNR of "simple diffusion" goes with the square of the side."""
    t = torch.tensor(0.5, dtype=torch.float64)
    ratio = CosineSchedule().logsnr(t).exp() / CosineSchedule(shift=2.0).logsnr(t).exp()
    assert ratio.item() == pytest.approx(4.0)


@given(st.integers(1, 1000), st.floats(0.0, 0.45), st.floats(0.55, 1.0), SHIFTS)
def test_steps_rise_from_start_to_end(n: int, end: float, start: float, shift: float):
    schedule = CosineSchedule(shift=shift)
    steps = schedule.steps(n, start, end)
    assert steps.shape == (n + 1,)
    assert steps.dtype == torch.float32
    assert (steps.diff() >= 0).all()
    assert steps[0].item() == pytest.approx(schedule.logsnr(torch.tensor(start)).item(), abs=1e-4)
    if end > 0:
        assert steps[-1].item() == pytest.approx(schedule.logsnr(torch.tensor(end)).item(), abs=1e-4)
    else:
        assert steps[-1] == math.inf


def test_the_ends_are_clamped_where_time_goes_flat():
    schedule = CosineSchedule()
    assert schedule.logsnr(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([9.21024, -9.21024], abs=1e-5)
    assert schedule.time(torch.tensor([math.inf, -math.inf])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("arguments", [(0,), (-3,), (10, 0.5, 0.5), (10, 0.2, 0.4), (10, 1.5), (10, 1.0, -0.1)])
def test_impossible_steps_are_refused(arguments: tuple[float, ...]):
    with pytest.raises(InputError):
        CosineSchedule().steps(*arguments)


@pytest.mark.parametrize("settings", [{"s": 0.0}, {"shift": 0.0}, {"clamp": (0.0, 0.9)}, {"clamp": (0.9, 0.1)}])
def test_impossible_schedules_are_refused(settings: dict[str, object]):
    with pytest.raises(InputError):
        CosineSchedule(**settings)
