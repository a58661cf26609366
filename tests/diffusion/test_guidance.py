from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from littlecascade.diffusion.guidance import cosine_scale, guide, linear_scale, make_denoiser, stepped_scale
from littlecascade.diffusion.noise import image_noise
from littlecascade.diffusion.process import EDM, EPSILON, TARGETS, Target, add_noise
from littlecascade.diffusion.samplers import SAMPLERS
from littlecascade.diffusion.schedule import CosineSchedule
from littlecascade.errors import InputError

SCHEDULE = CosineSchedule()
MIDDLE = SCHEDULE.logsnr(torch.tensor(0.5))


class Recorder:
    """A network that adds up what it is given, image by image, and remembers the calls."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Tensor]] = []

    def __call__(self, x: Tensor, time: Tensor, **conditions: Tensor) -> Tensor:
        self.calls.append({"x": x, "time": time, **conditions})
        shift = sum(value.float().flatten(1).mean(1) for value in conditions.values())
        return x * 0.5 + (shift + time).view(-1, 1, 1, 1).to(x) * torch.linspace(-1, 1, x.shape[-1]).to(x)


def tensors(batch: int = 2, seed: int = 0) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    gens = [torch.Generator().manual_seed(seed + i) for i in range(batch)]
    x, tokens, empty = (image_noise(shape, gens) for shape in ((4, 3, 5), (7, 6), (7, 6)))
    return x, {"tokens": tokens + 1, "sca": torch.ones(batch, 1)}, {"tokens": empty, "sca": torch.zeros(batch, 1)}


@given(st.floats(0.0, 8.0))
def test_guide_without_rescale_is_the_line_through_both(scale: float):
    cond, uncond, _ = torch.randn(3, 2, 4, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(guide(cond, uncond, scale), uncond + scale * (cond - uncond))


@given(st.floats(0.0, 1.0))
def test_rescale_does_nothing_at_scale_1(rescale: float):
    cond, uncond = torch.randn(2, 3, 4, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(guide(cond, uncond, 1.0, rescale), cond, rtol=1e-12, atol=1e-12)


@given(st.floats(0.0, 1.0), st.floats(1.5, 8.0))
def test_rescale_by_equations_15_and_16(rescale: float, scale: float):
    cond, uncond = torch.randn(2, 1, 4, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    guided = uncond + scale * (cond - uncond)
    expected = rescale * guided * cond.std() / guided.std() + (1 - rescale) * guided
    torch.testing.assert_close(guide(cond, uncond, scale, rescale), expected)


def test_rescale_gives_each_image_its_own_contrast():
    cond, uncond = torch.randn(2, 3, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    cond[2] *= 50
    together = guide(cond, uncond, 5.0, 1.0)
    torch.testing.assert_close(together.std((1, 2, 3)), cond.std((1, 2, 3)))
    for i in range(3):
        assert torch.equal(together[i : i + 1], guide(cond[i : i + 1], uncond[i : i + 1], 5.0, 1.0))


def test_a_prediction_without_contrast_does_not_divide_by_zero():
    flat = torch.ones(1, 2, 3, 3)
    assert guide(flat, flat, 4.0, 0.7).isfinite().all()


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_perfect_network_gives_x0_of_any_target(target: Target):
    x0, noise = torch.randn(2, 2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    for t in (0.1, 0.5, 0.9):
        level = SCHEDULE.logsnr(torch.tensor(t))
        answer = target.of(x0, noise, level)
        denoise = make_denoiser(lambda x, time, answer=answer: answer, {}, None, target=target)
        torch.testing.assert_close(denoise(add_noise(x0, noise, level), level), x0, rtol=0, atol=1e-4)


def test_the_network_is_told_the_time_in_float32_whatever_its_dtype():
    x, cond, _ = tensors()
    for target, expected in ((EPSILON, 0.5), (EDM, -MIDDLE.item() / 8)):
        network = Recorder()
        denoise = make_denoiser(network, cond, None, target=target, schedule=CosineSchedule(), dtype=torch.bfloat16)
        assert denoise(x, MIDDLE).dtype == torch.float32
        (call,) = network.calls
        assert call["x"].dtype == torch.bfloat16
        assert call["time"].dtype == torch.float32
        assert call["time"].tolist() == pytest.approx([expected] * 2, abs=1e-6)


def test_the_time_says_how_noisy_x_is_not_how_far_a_shifted_trajectory_is():
    x, cond, _ = tensors()
    network = Recorder()
    make_denoiser(network, cond, None, schedule=CosineSchedule(shift=3.0))(x, MIDDLE)
    assert network.calls[0]["time"].tolist() == pytest.approx([0.5, 0.5])


def test_guidance_is_one_call_on_both_conditions_by_name():
    x, cond, uncond = tensors()
    network = Recorder()
    denoise = make_denoiser(network, cond, dict(reversed(uncond.items())), scale=3.0, rescale=0.7)
    x0 = denoise(x, MIDDLE)
    (call,) = network.calls
    assert torch.equal(call["x"], torch.cat([x, x]))
    for name in cond:
        assert torch.equal(call[name], torch.cat([cond[name], uncond[name]]))
    time = torch.full((2,), 0.5)
    alone = Recorder()
    expected = guide(alone(x, time, **cond), alone(x, time, **uncond), 3.0, 0.7)
    torch.testing.assert_close(x0, EPSILON.to_x0(expected, x, MIDDLE), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [None, 1, 1.0, lambda t: 1.0])
def test_without_guidance_the_network_sees_the_conditions_alone(scale):
    x, cond, uncond = tensors()
    network = Recorder()
    make_denoiser(network, cond, uncond, scale=scale)(x, MIDDLE)
    (call,) = network.calls
    assert torch.equal(call["x"], x)
    assert torch.equal(call["tokens"], cond["tokens"])


def test_interval_and_schedule_of_scales_go_by_the_time_of_the_trajectory():
    x, cond, uncond = tensors()
    for schedule in (CosineSchedule(), CosineSchedule(shift=2.0)):
        network, asked = Recorder(), []

        def scale(t: float, asked: list[float] = asked) -> float:
            asked.append(t)
            return 3.0

        denoise = make_denoiser(network, cond, uncond, schedule=schedule, scale=scale, interval=(0.25, 0.75))
        times = [0.8, 0.7, 0.5, 0.3, 0.2]
        for t in times:
            denoise(x, schedule.logsnr(torch.tensor(t)))
        assert [len(call["x"]) for call in network.calls] == [2, 4, 4, 4, 2]
        assert asked == pytest.approx(times[1:-1], abs=1e-5)


@pytest.mark.parametrize("steps", [1, 3, 10, 100])
def test_stepped_scale_gives_each_step_its_own(steps: int):
    scales = [float(i) for i in range(steps)]
    at = stepped_scale(scales)
    levels = SCHEDULE.steps(steps)[:-1]
    assert [at(SCHEDULE.position(level).item()) for level in levels] == scales


def test_scale_schedules_between_their_ends():
    for schedule in (linear_scale(7.0, 2.0), cosine_scale(7.0, 2.0)):
        assert schedule(1.0) == pytest.approx(7)
        assert schedule(0.0) == pytest.approx(2)
        assert schedule(0.5) == pytest.approx(4.5)
    assert cosine_scale(7.0, 2.0)(0.9) > linear_scale(7.0, 2.0)(0.9)
    with pytest.raises(InputError):
        stepped_scale([])


def test_a_condition_of_one_row_serves_the_whole_batch():
    x, cond, uncond = tensors()
    one = {name: value[:1] for name, value in uncond.items()}
    all_rows = {name: value[:1].expand_as(value) for name, value in uncond.items()}
    images = (make_denoiser(Recorder(), cond, other, scale=4.0)(x, MIDDLE) for other in (one, all_rows))
    assert torch.equal(*images)


def test_conditions_that_do_not_pair_up_are_refused_by_name():
    x, cond, uncond = tensors()
    with pytest.raises(InputError, match="'sca' is among the conditions but not among the unconditional conditions"):
        make_denoiser(Recorder(), cond, {"tokens": uncond["tokens"]}, scale=3.0)
    with pytest.raises(InputError, match=r"'token' .* Did you mean 'tokens'\?"):
        make_denoiser(Recorder(), {"tokens": cond["tokens"]}, {"token": uncond["tokens"]}, scale=3.0)
    with pytest.raises(InputError, match=r"'tokens' is \(7, 6\) .* \(5, 6\)"):
        make_denoiser(Recorder(), cond, uncond | {"tokens": uncond["tokens"][:, :5]}, scale=3.0)(x, MIDDLE)
    with pytest.raises(InputError, match="'tokens' has 2 rows for a batch of 3"):
        make_denoiser(Recorder(), cond, uncond, scale=3.0)(torch.cat([x, x[:1]]), MIDDLE)
    with pytest.raises(InputError, match="interval"):
        make_denoiser(Recorder(), cond, uncond, scale=3.0, interval=(0.8, 0.2))


@pytest.mark.parametrize("name", SAMPLERS)
@settings(max_examples=15)
@given(seed=st.integers(0, 1000))
def test_an_image_does_not_depend_on_its_batch_through_guidance_and_sampler(name: str, seed: int):
    def draw(first: int, count: int) -> Tensor:
        x, cond, uncond = tensors(count, seed=first)
        denoise = make_denoiser(Recorder(), cond, uncond, scale=linear_scale(5.0, 2.0), rescale=0.7)
        gens = [torch.Generator().manual_seed(first + i) for i in range(count)]
        *_, last = SAMPLERS[name](denoise, x, SCHEDULE.steps(4), generators=gens)
        return last.x

    torch.testing.assert_close(draw(seed, 3)[1:2], draw(seed + 1, 1), rtol=1e-4, atol=1e-4)
