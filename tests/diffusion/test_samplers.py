"""Samplers against diffusers step by step, and against closed forms for data that is Gaussian.

For x0 ~ N(m, s^2), x at a level is N(alpha m, alpha^2 s^2 + sigma^2); its denoiser E[x0 | x] is linear and the
probability-flow ODE keeps `(x - alpha m) / sqrt(alpha^2 s^2 + sigma^2)` constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers import DDPMWuerstchenScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor

from littlecascade.diffusion.guidance import Denoise
from littlecascade.diffusion.process import EPSILON, alpha_sigma
from littlecascade.diffusion.samplers import SAMPLERS
from littlecascade.diffusion.schedule import CosineSchedule

MEAN, STD = 0.7, 0.3
SHAPE = (2, 4, 3, 5)
DIFFUSERS = {"prediction_type": "sample", "solver_order": 2, "final_sigmas_type": "zero"}
EVERY_SAMPLER = pytest.mark.parametrize("name", SAMPLERS)


def generators(count: int = 2, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + i) for i in range(count)]


def start(dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(99), dtype=dtype)


def spread(logsnr: Tensor, std: float = STD) -> Tensor:
    """The standard deviation of x at this level."""
    alpha, sigma = alpha_sigma(logsnr.double())
    return (alpha**2 * std**2 + sigma**2).sqrt()


def gaussian(x: Tensor, logsnr: Tensor) -> Tensor:
    """E[x0 | x] for x0 ~ N(MEAN, STD^2)."""
    alpha, _ = alpha_sigma(logsnr.double())
    return (MEAN + alpha * STD**2 / spread(logsnr) ** 2 * (x - alpha * MEAN)).to(x)


def mixture(x: Tensor, logsnr: Tensor) -> Tensor:
    """E[x0 | x] for x0 in two Gaussians of equal weight and standard deviation STD, at -1 and 1."""
    alpha, sigma = alpha_sigma(logsnr.double())
    variance = alpha**2 * STD**2 + sigma**2
    centre = torch.tanh(alpha * x / variance)
    return centre + alpha * STD**2 / variance * (x - alpha * centre)


def curved(x: Tensor, logsnr: Tensor) -> Tensor:
    """A made-up x0, by no means linear."""
    return (2 * x).sin() + 0.3 * torch.sigmoid(logsnr) * x


def run(name: str, denoise: Denoise, x: Tensor, logsnr: Tensor, gens: list[torch.Generator] | None = None) -> Tensor:
    return list(SAMPLERS[name](denoise, x, logsnr, generators=gens or generators(len(x))))[-1].x


def test_ddpm_is_step_by_step_that_of_diffusers():
    steps = 12
    theirs = DDPMWuerstchenScheduler()
    theirs.set_timesteps(steps)
    x, gens = start(), generators()
    answers: list[Tensor] = []

    def denoise(x: Tensor, logsnr: Tensor) -> Tensor:
        answers.append(0.9 * x + 0.1 * (3 * x).sin())  # epsilon
        return EPSILON.to_x0(answers[-1], x, logsnr)

    ours = list(SAMPLERS["ddpm"](denoise, x, CosineSchedule().steps(steps), generators=generators()))
    for i, step in enumerate(ours[:-1]):
        time = theirs.timesteps[i].expand(len(x))
        x = theirs.step(answers[i], time, x, generator=gens).prev_sample
        torch.testing.assert_close(step.x, x, rtol=0, atol=3e-5)  # they take 1 - alpha^2 / alpha_s^2 in float32
    # Theirs ends on the mean at alpha^2 = 0.9999 without noise, ours on x0, as the official code's callers do.
    last = theirs.step(answers[-1], theirs.timesteps[-2].expand(len(x)), ours[-2].x, generator=gens).prev_sample
    assert torch.equal(ours[-1].x, ours[-1].x0)
    torch.testing.assert_close(last, ours[-1].x, rtol=0, atol=2e-2)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20])
@pytest.mark.parametrize(
    ("name", "scheduler"),
    [
        ("dpmpp_2m", lambda: DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", **DIFFUSERS)),
        ("dpmpp_2m_sde", lambda: DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", **DIFFUSERS)),
        ("unipc", lambda: UniPCMultistepScheduler(solver_type="bh2", **DIFFUSERS)),
        (
            "ddim",
            lambda: DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", **(DIFFUSERS | {"solver_order": 1})),
        ),
    ],
)
def test_multistep_samplers_are_step_by_step_those_of_diffusers(name: str, scheduler: Callable, steps: int):
    logsnr = CosineSchedule().steps(steps).double()
    other = scheduler()
    other.set_timesteps(steps)
    other.sigmas = (-logsnr / 2).exp()
    x = start(torch.float64)
    gens, expected = generators(), x
    for i, step in enumerate(SAMPLERS[name](curved, x, logsnr, generators=generators())):
        noise = {}
        if name == "dpmpp_2m_sde":
            noise["variance_noise"] = torch.stack([torch.randn(SHAPE[1:], generator=g) for g in gens]).double()
        answer = curved(expected, logsnr[i])
        expected = other.step(answer, other.timesteps[i], expected, **noise).prev_sample
        torch.testing.assert_close(step.x, expected, rtol=0, atol=1e-5)  # they compute in float32


def exact(denoise: Denoise, x: Tensor, first: float, last: float, steps: int = 500) -> Tensor:
    """The probability-flow ODE by Runge and Kutta: d(x / alpha) / dlambda = -exp(-lambda) epsilon."""

    def slope(half: float, y: Tensor) -> Tensor:
        logsnr = torch.tensor(2 * half, dtype=torch.float64)
        alpha, sigma = alpha_sigma(logsnr)
        return -math.exp(-half) * (alpha * y - alpha * denoise(alpha * y, logsnr)) / sigma

    y = x / alpha_sigma(torch.tensor(first, dtype=torch.float64))[0]
    h = (last - first) / 2 / steps
    for i in range(steps):
        at = first / 2 + i * h
        a = slope(at, y)
        b = slope(at + h / 2, y + h / 2 * a)
        c = slope(at + h / 2, y + h / 2 * b)
        y = y + h / 6 * (a + 2 * b + 2 * c + slope(at + h, y + h * c))
    return y * alpha_sigma(torch.tensor(last, dtype=torch.float64))[0]


def errors(name: str, denoise: Denoise, counts: list[int]) -> list[float]:
    """The greatest error of x at a finite noise level, for these numbers of steps, equal in logSNR."""
    x = torch.linspace(-2.5, 2.5, 40, dtype=torch.float64).view(1, 1, 5, 8)
    first, last = -4.0, 5.0
    truth = exact(denoise, x, first, last)
    levels = (torch.linspace(first, last, count + 1, dtype=torch.float64) for count in counts)
    return [(run(name, denoise, x, logsnr) - truth).abs().max().item() for logsnr in levels]


def test_the_exact_solution_is_the_closed_form_of_the_gaussian():
    x = torch.linspace(-2.5, 2.5, 5, dtype=torch.float64)
    low, high = torch.tensor([-4.0, 5.0], dtype=torch.float64)
    unit = (x - alpha_sigma(low)[0] * MEAN) / spread(low)
    closed = alpha_sigma(high)[0] * MEAN + spread(high) * unit
    torch.testing.assert_close(exact(gaussian, x, -4.0, 5.0), closed, rtol=0, atol=1e-9)


@pytest.mark.parametrize("denoise", [gaussian, mixture])
@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpmpp_2m", 2), ("unipc", 3)])
def test_order_of_convergence(name: str, order: int, denoise: Denoise):
    """The slope of log error over log steps; UniPC's corrector adds one to the 2 of its predictor."""
    counts = [32, 64, 128, 256]
    slope = -np.polyfit(np.log(counts), np.log(errors(name, denoise, counts)), 1)[0]
    assert order - 0.2 <= slope <= order + 0.3


def test_unipc_is_closer_than_dpmpp_2m_and_that_than_ddim_in_few_steps():
    ddim, dpmpp, unipc = (errors(name, mixture, [16])[0] for name in ("ddim", "dpmpp_2m", "unipc"))
    assert 1.3 * unipc < dpmpp < ddim / 4


@pytest.mark.parametrize(("name", "steps", "bias"), [("ddpm", 400, 0.012), ("dpmpp_2m_sde", 100, 0.003)])
def test_stochastic_samplers_draw_the_gaussian(name: str, steps: int, bias: float):
    """Mean and standard deviation within 5 standard errors of 120,000 samples, plus the bias of so many steps."""
    count = 120_000
    drawn = run(name, gaussian, start(shape=(1, 1, 300, 400)), CosineSchedule().steps(steps)).double()
    assert abs(drawn.mean().item() - MEAN) < 5 * STD / count**0.5 + bias * STD
    assert abs(drawn.std().item() / STD - 1) < 5 / (2 * count) ** 0.5 + bias


@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc", "ddim"])
def test_deterministic_samplers_carry_noise_over_to_the_gaussian(name: str):
    """The map from noise to data is the affine one: z -> m + s z, but for the 0.01 of m in x at t = 1."""
    z = start(torch.float64)
    drawn = run(name, gaussian, z, CosineSchedule().steps(200))
    low = torch.tensor(CosineSchedule().limits[0], dtype=torch.float64)
    exact = MEAN + STD * (z - alpha_sigma(low)[0] * MEAN) / spread(low)
    torch.testing.assert_close(drawn, exact, rtol=0, atol=0.02 if name == "ddim" else 1e-3)


def test_lcm_draws_the_gaussian_with_a_consistency_function_in_few_steps():
    """It needs the end of the trajectory, x0 = m + s (x - alpha m) / spread, for which 4 steps are exact."""

    def consistent(x: Tensor, logsnr: Tensor) -> Tensor:
        return (MEAN + STD * (x - alpha_sigma(logsnr.double())[0] * MEAN) / spread(logsnr)).to(x)

    count = 120_000
    drawn = run("lcm", consistent, start(shape=(1, 1, 300, 400)), CosineSchedule().steps(4)).double()
    # The start is taken for x at t = 1, though it has mean 0 instead of 0.01 m.
    assert abs(drawn.mean().item() - MEAN) < 5 * STD / count**0.5
    assert abs(drawn.std().item() / STD - 1) < 5 / (2 * count) ** 0.5


@EVERY_SAMPLER
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_last_step_lands_on_x0(name: str, steps: int):
    *_, last = SAMPLERS[name](curved, start(), CosineSchedule(shift=2.0).steps(steps), generators=generators())
    assert torch.equal(last.x, last.x0)


@EVERY_SAMPLER
def test_data_that_is_known_is_reached_from_any_level(name: str):
    """A denoiser that always says the same ends there, and on the way x is that with noise."""
    target = start()
    logsnr = CosineSchedule().steps(10, start=0.6)
    steps = list(SAMPLERS[name](lambda x, level: target, start() * 3, logsnr, generators=generators()))
    assert len(steps) == 10
    assert torch.equal(steps[-1].x, target)


@EVERY_SAMPLER
def test_an_image_of_a_batch_is_that_image_alone(name: str):
    x, logsnr = start(shape=(3, 4, 3, 5)), CosineSchedule().steps(8)
    batch = run(name, curved, x, logsnr, generators(3, first=10))
    for i in range(3):
        assert torch.equal(batch[i : i + 1], run(name, curved, x[i : i + 1], logsnr, generators(1, first=10 + i)))


@EVERY_SAMPLER
def test_one_call_a_step_at_the_level_of_x(name: str):
    seen: list[float] = []

    def denoise(x: Tensor, logsnr: Tensor) -> Tensor:
        assert logsnr.shape == ()
        seen.append(logsnr.item())
        return curved(x, logsnr)

    logsnr = CosineSchedule().steps(6)
    sampler = SAMPLERS[name](denoise, start(), logsnr, generators=generators())
    next(sampler)
    assert seen == logsnr[:1].tolist()  # nothing ahead of what is asked for
    list(sampler)
    assert seen == logsnr[:-1].tolist()


@EVERY_SAMPLER
def test_flat_ends_of_the_schedule_change_nothing(name: str):
    """Above 300 steps the clamped schedule repeats itself at both ends; shifted, at the noisy one after fewer."""
    for schedule in (CosineSchedule(), CosineSchedule(shift=2.0)):
        logsnr = schedule.steps(700)
        assert (logsnr.diff() == 0).any()
        drawn = run(name, gaussian, start(), logsnr)
        assert drawn.isfinite().all()
        assert drawn.abs().max() < MEAN + 6 * STD


@EVERY_SAMPLER
def test_x_stays_in_its_dtype(name: str):
    for dtype in (torch.float32, torch.float64):
        assert run(name, curved, start(dtype), CosineSchedule().steps(3)).dtype == dtype


def test_float32_is_as_good_as_float64_with_epsilon_at_the_noisy_end():
    """alpha is 0.01 there, so a rounding of epsilon is multiplied by 100 in x0; the samplers take it back."""

    def from_epsilon(x: Tensor, logsnr: Tensor) -> Tensor:
        alpha, sigma = alpha_sigma(logsnr.double())
        epsilon = ((x.double() - alpha * gaussian(x.double(), logsnr)) / sigma).to(x.dtype)
        return EPSILON.to_x0(epsilon, x, logsnr)

    logsnr = CosineSchedule().steps(20)
    for name in ("ddim", "dpmpp_2m", "unipc"):
        single, double = (run(name, from_epsilon, start().to(d), logsnr) for d in (torch.float32, torch.float64))
        torch.testing.assert_close(single.double(), double, rtol=0, atol=2e-5)


def test_too_few_generators_are_noticed():
    with pytest.raises(ValueError, match="2 images"):
        list(SAMPLERS["ddpm"](curved, start(), CosineSchedule().steps(3), generators=generators(1)))


def test_a_partial_trajectory_stops_at_its_level():
    logsnr = CosineSchedule().steps(50, end=0.5)
    drawn = run("ddpm", gaussian, start(shape=(1, 1, 300, 400)), logsnr)
    assert math.isfinite(logsnr[-1])
    assert drawn.std().item() == pytest.approx(spread(logsnr[-1]).item(), rel=0.02)
