from __future__ import annotations

import pytest
import torch
from diffusers import DDPMWuerstchenScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from littlecascade.diffusion.process import EDM, EPSILON, TARGETS, X0, Target, V, add_noise, alpha_sigma
from littlecascade.diffusion.schedule import CosineSchedule

LEVELS = st.floats(-9.2, 9.2)
EVERY_TARGET = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


def data_and_noise(dtype: torch.dtype = torch.float64, batch: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(batch, 2, 3, 4, generator=generator, dtype=dtype) for _ in range(2))


@given(LEVELS)
def test_variance_is_preserved(logsnr: float):
    alpha, sigma = alpha_sigma(torch.tensor(logsnr, dtype=torch.float64))
    assert (alpha**2 + sigma**2).item() == pytest.approx(1)
    assert (alpha**2 / sigma**2).log().item() == pytest.approx(logsnr)


def test_add_noise_is_that_of_diffusers():
    x0, noise = data_and_noise(torch.float32)
    t = torch.tensor([0.1, 0.5, 0.95])
    theirs = DDPMWuerstchenScheduler().add_noise(x0, noise, t)
    torch.testing.assert_close(add_noise(x0, noise, CosineSchedule().logsnr(t)), theirs, rtol=0, atol=2e-6)


@EVERY_TARGET
@given(logsnr=LEVELS)
def test_what_a_perfect_network_says_gives_x0_and_noise_back(target: Target, logsnr: float):
    x0, noise = data_and_noise()
    level = torch.tensor(logsnr, dtype=torch.float64)
    x, prediction = add_noise(x0, noise, level), target.of(x0, noise, level)
    torch.testing.assert_close(target.to_x0(prediction, x, level), x0, rtol=0, atol=1e-10)
    torch.testing.assert_close(target.to_noise(prediction, x, level), noise, rtol=0, atol=1e-10)


@EVERY_TARGET
@given(logsnr=LEVELS)
def test_any_prediction_means_an_x0_and_a_noise_that_make_up_x(target: Target, logsnr: float):
    x, prediction = data_and_noise()
    level = torch.tensor(logsnr, dtype=torch.float64)
    x0, noise = target.to_x0(prediction, x, level), target.to_noise(prediction, x, level)
    torch.testing.assert_close(add_noise(x0, noise, level), x, rtol=0, atol=1e-9)
    torch.testing.assert_close(target.of(x0, noise, level), prediction, rtol=0, atol=1e-9)


def test_targets_by_their_definitions():
    x0, noise = data_and_noise()
    level = torch.tensor(0.7, dtype=torch.float64)
    alpha, sigma = alpha_sigma(level)
    assert torch.equal(EPSILON.of(x0, noise, level), noise)
    assert torch.equal(X0.of(x0, noise, level), x0)
    for target in (V, EDM):
        torch.testing.assert_close(target.of(x0, noise, level), alpha * noise - sigma * x0)


@given(LEVELS)
def test_edm_is_karras_preconditioning_for_data_of_unit_variance(logsnr: float):
    """D(y; sigma) = c_skip y + c_out F(c_in y), Karras et al. 2022, table 1 with sigma_data = 1, F = -v."""
    x, v = data_and_noise()
    sigma = torch.tensor(-logsnr / 2, dtype=torch.float64).exp()
    y = x * (1 + sigma**2).sqrt()  # their process x0 + sigma noise; c_in y is ours
    expected = y / (1 + sigma**2) - sigma / (1 + sigma**2).sqrt() * v
    level = torch.tensor(logsnr, dtype=torch.float64)
    torch.testing.assert_close(EDM.to_x0(v, x, level), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(EDM.time(level, CosineSchedule()), sigma.log() / 4)


@EVERY_TARGET
def test_one_level_per_image(target: Target):
    x, prediction = data_and_noise()
    levels = torch.tensor([-3.0, 0.0, 4.0], dtype=torch.float64)
    for i, level in enumerate(levels):
        torch.testing.assert_close(
            target.to_x0(prediction, x, levels)[i], target.to_x0(prediction[i : i + 1], x[i : i + 1], level)[0]
        )


@EVERY_TARGET
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_predictions_are_computed_with_in_float32(target: Target, dtype: torch.dtype):
    x, prediction = (tensor.to(dtype) for tensor in data_and_noise())
    level = torch.tensor(-9.2)
    x0 = target.to_x0(prediction, x, level)
    assert x0.dtype == torch.float32
    torch.testing.assert_close(x0, target.to_x0(prediction.float(), x.float(), level), rtol=0, atol=0)


def test_an_error_of_epsilon_is_a_hundred_times_that_in_x0_at_the_noisy_end_and_v_keeps_it():
    x0, noise = data_and_noise()
    level = CosineSchedule().logsnr(torch.tensor(1.0, dtype=torch.float64))
    x = add_noise(x0, noise, level)
    for target, growth in ((EPSILON, 99.995), (V, 1.0), (X0, 1.0)):
        wrong = target.to_x0(target.of(x0, noise, level) + 1e-3, x, level)
        torch.testing.assert_close((wrong - x0).abs(), torch.full_like(x0, growth * 1e-3), rtol=1e-3, atol=0)


@EVERY_TARGET
@given(logsnr=LEVELS)
def test_x0_share_is_the_error_that_passes_on_to_x0(target: Target, logsnr: float):
    x, prediction = data_and_noise()
    level = torch.tensor(logsnr, dtype=torch.float64)
    moved = target.to_x0(prediction + 1, x, level) - target.to_x0(prediction, x, level)
    torch.testing.assert_close(moved.square().mean(), target.x0_share(level))
