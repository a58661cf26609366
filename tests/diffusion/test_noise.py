from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from littlecascade.diffusion.noise import image_noise, offset_noise, pyramid_noise


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_an_image_has_its_own_noise_whatever_the_batch():
    batch = image_noise((2, 3, 4), generators(5, 6, 7))
    assert batch.shape == (3, 2, 3, 4)
    assert torch.equal(batch[1:2], image_noise((2, 3, 4), generators(6)))
    like = torch.zeros(1, dtype=torch.bfloat16)
    assert torch.equal(image_noise((2, 3, 4), generators(5), like=like), batch[:1].bfloat16())


@pytest.mark.parametrize(
    "mix", [lambda n, g: pyramid_noise(n, generators=g), lambda n, g: offset_noise(n, 0.5, generators=g)]
)
def test_mixed_noise_of_an_image_does_not_depend_on_its_batch(mix):
    noise = image_noise((4, 12, 20), generators(1, 2))
    assert torch.equal(mix(noise, generators(3, 4))[1:], mix(noise[1:], generators(4)))


@pytest.mark.parametrize("size", [(32, 32), (24, 56), (56, 24), (5, 7)])
def test_pyramid_noise_has_variance_1_at_every_pixel(size: tuple[int, int]):
    batch = 3000
    seeds = range(batch)
    noise = torch.randn(batch, 1, *size, generator=torch.Generator().manual_seed(0))
    mixed = pyramid_noise(noise, generators=generators(*seeds))
    assert mixed.shape == noise.shape
    # The estimate of a variance from n samples is off by sqrt(2 / n) = 0.026; 5.5 times that for the worst pixel.
    assert (mixed.var(0) - 1).abs().max() < 5.5 * (2 / batch) ** 0.5
    assert mixed.mean(0).abs().max() < 5.5 / batch**0.5


def test_pyramid_noise_of_a_wide_picture_is_coarse_along_both_sides_alike():
    """Fault of the official code: cells as many across as down, hence wide cells for a wide picture."""
    mixed = pyramid_noise(torch.zeros(1, 1, 16, 32), generators=generators(0), levels=3, sizes=(8, 8))
    cells = mixed[..., ::4, ::4]  # one level: 16 / 4 by 32 / 4 cells of 4 by 4 pixels
    assert torch.equal(F.interpolate(cells, scale_factor=4, mode="nearest"), mixed)
    assert cells.unique().numel() == 4 * 8


def test_pyramid_noise_keeps_to_its_sizes():
    noise = torch.zeros(1, 1, 64, 64)
    assert torch.equal(pyramid_noise(noise, generators=generators(0), sizes=(100, 200)), noise)
    assert torch.equal(pyramid_noise(noise, generators=generators(0), levels=1), noise)
    # Levels 2 to 6 of 64 pixels have 16 to 1 cells: their share of the variance next to the noise's own 1.
    shares = [0.75 ** (2 * level) for level in range(2, 7)]
    ones = pyramid_noise(torch.ones(400, 1, 64, 64), generators=generators(*range(400)))
    assert ones.mean().item() == pytest.approx((1 + sum(shares)) ** -0.5, abs=0.1)


def test_offset_noise_moves_whole_channels():
    moved = offset_noise(torch.zeros(3, 2, 4, 4), 0.25, generators=generators(1, 2, 3))
    assert torch.equal(moved, moved[..., :1, :1].expand_as(moved))
    assert torch.equal(moved[:, :, :1, :1], 0.25 * image_noise((2, 1, 1), generators(1, 2, 3)))
