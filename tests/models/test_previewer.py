from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from littlecascade.models.config import PreviewerConfig
from littlecascade.models.previewer import Previewer
from littlecascade.presets import PRESETS

SMALL = PreviewerConfig(widths=(16, 8, 8))


def test_official_size(golden_keys) -> None:
    with torch.device("meta"):
        model = Previewer(PRESETS["full"].previewer)
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_979_651
    assert len(model.state_dict()) == 58
    golden_keys("previewer", model.state_dict())


@pytest.mark.parametrize("widths", [(16,), (16, 8), (32, 16, 8, 8)])
def test_is_the_official_stack(widths: tuple[int, ...]) -> None:
    """By the file's names: 1x1, 3x3, then a transposed 2x2 and a 3x3 per doubling, all with GELU and batch norm."""
    model = Previewer(PreviewerConfig(widths=widths)).double()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
    model.eval()
    tensors = model.state_dict()
    x = latents = torch.randn(2, 16, 3, 5, dtype=torch.float64)
    last = 6 * len(widths)
    for index in range(0, last, 3):
        weight, bias = tensors[f"blocks.{index}.weight"], tensors[f"blocks.{index}.bias"]
        doubles = index >= 6 and index % 6 == 0
        x = (
            F.conv_transpose2d(x, weight, bias, stride=2)
            if doubles
            else F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
        )
        x = x * 0.5 * (1 + torch.erf(x / 2**0.5))
        mean, var, scale, shift = (
            tensors[f"blocks.{index + 2}.{part}"].view(-1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean) / (var + 1e-5).sqrt() * scale + shift
    expected = F.conv2d(x, tensors[f"blocks.{last}.weight"], tensors[f"blocks.{last}.bias"])
    assert len(tensors) == 7 * 2 * len(widths) + 2
    with torch.no_grad():
        torch.testing.assert_close(model(latents), expected)
    factor = 2 ** (len(widths) - 1)
    assert expected.shape == (2, 3, 3 * factor, 5 * factor)


def test_patch_makes_a_square_of_each_position() -> None:
    model = Previewer(PreviewerConfig(widths=(16, 8), patch=4)).eval()
    latents = torch.randn(1, 16, 2, 3)
    with torch.no_grad():
        pixels, columns = model(latents), model.blocks(latents)
    assert pixels.shape == (1, 3, 16, 24)
    torch.testing.assert_close(pixels[0, 1, 4:8, 8:12].flatten(), columns[0, 16:32, 1, 2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_weights_need_no_autocast(dtype: torch.dtype) -> None:
    model = Previewer(SMALL)
    model.initialise(torch.Generator().manual_seed(0))
    model.eval()
    latents = torch.randn(2, 16, 4, 4)
    with torch.no_grad():
        expected = model(latents)
        pixels = model.to(dtype)(latents)
    assert pixels.dtype == dtype
    assert (pixels.float() - expected).abs().max() < 0.03 * expected.abs().max()


def test_the_same_generator_draws_the_same_weights() -> None:
    def drawn(seed: int) -> dict[str, torch.Tensor]:
        model = Previewer(SMALL)
        model.initialise(torch.Generator().manual_seed(seed))
        return model.state_dict()

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if first[name].ndim == 4)
