from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from littlecascade.nn import blocks


def channels_first(module: torch.nn.Module, x: Tensor) -> Tensor:
    return module(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (2, 3)])
def test_convolutions_equal_torchs(size: tuple[int, int]) -> None:
    x = torch.randn(2, 6, *size)
    down, up, depthwise, point = (
        blocks.Downscale(6, 4), blocks.Upscale(6, 4), blocks.Depthwise(6, 3), blocks.Pointwise(6, 4),
    )  # fmt: skip
    torch.testing.assert_close(channels_first(down, x), F.conv2d(x, down.weight, down.bias, stride=2))
    torch.testing.assert_close(channels_first(up, x), F.conv_transpose2d(x, up.weight, up.bias, stride=2))
    torch.testing.assert_close(channels_first(point, x), F.conv2d(x, point.weight, point.bias))
    expected = F.conv2d(x, depthwise.weight, depthwise.bias, padding=1, groups=6)
    torch.testing.assert_close(channels_first(depthwise, x), expected)


@given(
    height=st.integers(1, 7), width=st.integers(1, 7), patch=st.integers(1, 3), channels=st.integers(1, 3)
)  # fmt: skip
@settings(deadline=None, max_examples=30)
def test_unpatchify_undoes_patchify(height: int, width: int, patch: int, channels: int) -> None:
    x = torch.randn(2, channels, height, width)
    patches = blocks.Patchify(patch)(x)
    assert patches.shape == (2, -(-height // patch), -(-width // patch), channels * patch**2)
    assert torch.equal(blocks.Unpatchify(patch)(patches)[..., :height, :width], x)


def test_resize_is_bilinear_with_corners_on_corners() -> None:
    ramp = torch.linspace(0, 1, 5)[None, :, None, None].expand(1, 5, 3, 1)
    resized = blocks.resize(ramp, (9, 2))
    torch.testing.assert_close(resized[0, :, 0, 0], torch.linspace(0, 1, 9))
    assert resized.shape == (1, 9, 2, 1)
    assert blocks.resize(ramp, (5, 3)) is ramp
    assert blocks.resize(ramp.half(), (9, 2)).dtype == torch.float16


def plain_grn(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """The three lines of the ConvNeXt V2 paper, algorithm 1."""
    gx = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
    nx = gx / (gx.mean(dim=-1, keepdim=True) + 1e-6)
    return gamma * (x * nx) + beta + x


def test_global_response_norm_and_its_gradients_equal_the_papers() -> None:
    grn = blocks.GlobalResponseNorm(6)
    for parameter in grn.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(3, 4, 5, 6, requires_grad=True)
    inputs = (x, grn.gamma, grn.beta)
    ours, theirs = grn(x), plain_grn(*inputs)
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(x)
    for got, expected in zip(
        torch.autograd.grad((ours * weight).sum(), inputs),
        torch.autograd.grad((theirs * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_global_response_norm_holds_where_float16_squares_overflow() -> None:
    grn = blocks.GlobalResponseNorm(6).half()
    torch.nn.init.ones_(grn.gamma)
    x = 600 * torch.randn(2, 8, 8, 6, generator=torch.Generator().manual_seed(0)).half().requires_grad_(True)
    out = grn(x)
    expected = plain_grn(x.float(), grn.gamma.float(), grn.beta.float())
    torch.testing.assert_close(out.float(), expected, rtol=3e-3, atol=1)
    (gradient,) = torch.autograd.grad(out.float().sum(), x)
    assert gradient.isfinite().all()


def test_global_response_norm_of_a_map_that_is_summed_in_parts() -> None:
    grn = blocks.GlobalResponseNorm(256)
    torch.nn.init.normal_(grn.gamma)
    x = torch.randn(2, 40, 41, 256)
    assert x.numel() > blocks._SquareSum.PART
    torch.testing.assert_close(grn(x), plain_grn(x, grn.gamma, grn.beta))


def test_global_response_norm_of_nothing_has_a_finite_gradient() -> None:
    grn = blocks.GlobalResponseNorm(6)
    torch.nn.init.ones_(grn.gamma)
    x = torch.zeros(1, 2, 2, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(grn(x).sum(), x)
    assert gradient.isfinite().all()


def test_timestep_block_scales_and_shifts_by_the_sum_of_its_mappers() -> None:
    block = blocks.TimestepBlock(4, 6, ("sca", "crp"))
    x, time = torch.randn(2, 3, 3, 4), torch.randn(2, 18)
    mapped = block.mapper(time[:, :6]) + block.mapper_sca(time[:, 6:12]) + block.mapper_crp(time[:, 12:])
    scale, shift = mapped[:, None, None, :4], mapped[:, None, None, 4:]
    torch.testing.assert_close(block(x, time=time, text=torch.empty(0)), x * (1 + scale) + shift)


def test_a_skip_enters_a_res_block_after_the_norm() -> None:
    """Doubling a skip doubles what the first linear reads of it: nothing normalises it."""
    block = blocks.ResBlock(4, skip_width=4)
    x, skip = torch.randn(1, 3, 3, 4), torch.randn(1, 3, 3, 4)
    seen: list[Tensor] = []
    block.channelwise[0].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    block(x, time=torch.empty(0), text=torch.empty(0), skip=2 * skip)
    assert torch.equal(seen[0][..., 4:], 2 * skip)
    torch.testing.assert_close(seen[0][..., :4].mean(-1), torch.zeros(1, 3, 3), atol=1e-5, rtol=0)
