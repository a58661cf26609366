from __future__ import annotations

import pytest
import torch

from littlecascade.memory import nf4

PUBLISHED = [
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
]
"""Dettmers et al. 2023, appendix E."""


def test_levels_are_the_published_ones() -> None:
    torch.testing.assert_close(nf4.levels(), torch.tensor(PUBLISHED), rtol=0, atol=3e-7)


def test_a_matrix_by_hand() -> None:
    row = torch.zeros(64)
    row[:4] = torch.tensor([-8.0, 4.4, 5.2, 0.3])  # over 8: -1, 0.55, 0.65, 0.0375, of which the last is nearest to 0
    kept = nf4.quantise(torch.stack([row, torch.zeros(64)]))
    assert kept.codes.shape == (2, 32)
    assert kept.codes[0, :3].tolist() == [0x0D, 0xE7, 0x77]
    assert set(kept.codes[1].tolist()) == {0x77}
    assert kept.scales.tolist() == [[8.0], [0.0]]
    restored = kept.restore(torch.float32)
    expected = [8 * PUBLISHED[code] for code in (0x0, 0xD, 0xE, 0x7)]
    torch.testing.assert_close(restored[0, :4], torch.tensor(expected), rtol=0, atol=3e-6)
    assert torch.equal(restored[1], torch.zeros(64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_value_becomes_the_nearest_one_that_its_scale_allows(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(96, 192, generator=generator) * torch.logspace(-3, 2, 96)[:, None]
    kept = nf4.quantise(matrix.to(dtype))
    scales = kept.scales.float().repeat_interleave(64, dim=1)
    known = torch.tensor(PUBLISHED) * scales[..., None]
    nearest = (known - matrix.to(dtype).float()[..., None]).abs().amin(-1)
    error = (kept.restore(torch.float32) - matrix.to(dtype).float()).abs()
    assert ((error - nearest).abs() <= 1e-6 * scales).all()
    assert torch.equal(kept.restore(dtype), kept.restore(torch.float32).to(dtype))
    largest = matrix.to(dtype).float().view(96, 3, 64).abs().amax(2)
    assert ((kept.scales.float() - largest).abs() <= 2**-8 * largest).all()


def test_normal_values_lose_a_tenth() -> None:
    """As the sum over a block's levels says: about 9 % of the values' size for blocks of 64."""
    matrix = torch.randn(64, 6400, generator=torch.Generator().manual_seed(0))
    kept = nf4.quantise(matrix)
    error = kept.restore(torch.float32) - matrix
    assert 0.085 < float(error.norm() / matrix.norm()) < 0.1
    assert 8 * sum(tensor.nbytes for tensor in kept) == 4.25 * matrix.numel()


def test_what_it_is_for() -> None:
    shapes = {(64, 64): True, (64, 96): False, (64, 64, 1, 1): False, (4096,): False, (63, 64): False}
    assert {shape: nf4.fits(torch.empty(shape)) for shape in shapes} == shapes
    assert not nf4.fits(torch.empty(64, 64, dtype=torch.int64))
