from __future__ import annotations

from collections.abc import Mapping
from itertools import count

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from littlecascade.memory.precision import cast
from littlecascade.models.compressor import Compressor
from littlecascade.models.config import CompressorConfig, StageSpec
from littlecascade.presets import PRESETS

SMALL = CompressorConfig(
    stem=8,
    stages=(
        StageSpec("fused", expand=1, kernel=3, stride=1, in_channels=8, out_channels=8, depth=2),
        StageSpec("fused", expand=2, kernel=3, stride=2, in_channels=8, out_channels=12, depth=2),
        StageSpec("fused", expand=2, kernel=3, stride=2, in_channels=12, out_channels=16, depth=1),
        StageSpec("mb", expand=2, kernel=3, stride=2, in_channels=16, out_channels=24, depth=2),
        StageSpec("mb", expand=2, kernel=5, stride=2, in_channels=24, out_channels=24, depth=2),
    ),
    head=32,
)
FIRST_BLOCKS = {
    "1.0.block.0.0.weight": (24, 24, 3, 3),
    "2.0.block.0.0.weight": (96, 24, 3, 3),
    "2.0.block.1.0.weight": (48, 96, 1, 1),
    "4.0.block.0.0.weight": (256, 64, 1, 1),
    "4.0.block.1.0.weight": (256, 1, 3, 3),
    "4.0.block.2.fc1.weight": (16, 256, 1, 1),
    "4.0.block.2.fc2.weight": (256, 16, 1, 1),
    "4.0.block.3.0.weight": (128, 256, 1, 1),
    "6.14.block.2.fc1.bias": (64,),
    "7.0.weight": (1280, 256, 1, 1),
}
"""Names and shapes of torchvision's `efficientnet_v2_s().features`."""


def randomise(model: Compressor, seed: int = 0) -> Compressor:
    model.initialise(generator := torch.Generator().manual_seed(seed))
    for tensor in model.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def efficientnet(x: Tensor, tensors: Mapping[str, Tensor], config: CompressorConfig) -> Tensor:
    """Tables 1 and 4 of the paper, by the names of the file: the reference for the backbone in evaluation."""

    def conv_norm(x: Tensor, name: str, *, stride: int = 1, groups: int = 1, activate: bool = True) -> Tensor:
        weight = tensors[f"{name}.0.weight"].double()
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
        mean, var, scale, shift = (
            tensors[f"{name}.1.{part}"].double().view(-1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean) / (var + 1e-3).sqrt() * scale + shift
        return x * x.sigmoid() if activate else x

    def gate(x: Tensor, name: str) -> Tensor:
        squeezed = x.mean((2, 3))
        for layer, activation in (("fc1", lambda v: v * v.sigmoid()), ("fc2", torch.sigmoid)):
            weight, bias = (tensors[f"{name}.{layer}.{part}"].double() for part in ("weight", "bias"))
            squeezed = activation(squeezed @ weight.flatten(1).T + bias)
        return x * squeezed[:, :, None, None]

    x = conv_norm(x.double(), "0", stride=2)
    number = count(1)
    for stage in config.stages:
        index = next(number)
        for depth in range(stage.depth):
            block, stride = f"{index}.{depth}.block", stage.stride if depth == 0 else 1
            if stage.kind == "mb":
                y = conv_norm(x, f"{block}.0")
                y = conv_norm(y, f"{block}.1", stride=stride, groups=y.shape[1])
                y = conv_norm(gate(y, f"{block}.2"), f"{block}.3", activate=False)
            elif stage.expand == 1:
                y = conv_norm(x, f"{block}.0", stride=stride)
            else:
                y = conv_norm(conv_norm(x, f"{block}.0", stride=stride), f"{block}.1", activate=False)
            x = x + y if x.shape == y.shape else y
    return conv_norm(x, str(next(number)))


def test_official_size(golden_keys) -> None:
    with torch.device("meta"):
        model = Compressor(PRESETS["full"].compressor)
    assert sum(parameter.numel() for parameter in model.parameters()) == 20_197_968
    tensors = model.state_dict()
    assert len(tensors) == 784
    for name, shape in FIRST_BLOCKS.items():
        assert tensors[f"backbone.{name}"].shape == shape
    assert "mapper.1.running_mean" in tensors
    assert "mapper.1.weight" not in tensors
    golden_keys("compressor", tensors)


@pytest.mark.parametrize("size", [(64, 96), (65, 33)])
def test_agrees_with_the_paper_s_table(size: tuple[int, int]) -> None:
    model = randomise(Compressor(SMALL))
    tensors = {name.removeprefix("backbone."): tensor for name, tensor in model.state_dict().items()}
    pixels = torch.rand(2, 3, *size)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
    features = efficientnet((pixels - mean) / std, tensors, SMALL)
    mapped = F.conv2d(features, model.mapper[0].weight.detach().double())
    expected = (mapped - model.mapper[1].running_mean[:, None, None]) / (
        model.mapper[1].running_var[:, None, None] + 1e-5
    ).sqrt()
    with torch.no_grad():
        latents = model(pixels)
    assert latents.shape == (2, 16, -(-size[0] // 32), -(-size[1] // 32))
    torch.testing.assert_close(latents.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_the_backbone_takes_other_maps() -> None:
    model = randomise(Compressor(SMALL, in_channels=5))
    assert model.backbone(torch.rand(1, 5, 64, 64)).shape == (1, 32, 2, 2)


def test_stochastic_depth_leaves_branches_out_in_training_only() -> None:
    """With the branch of the last block kept or dropped per picture, its mean over draws is the block without drops."""
    torch.manual_seed(0)
    block = Compressor(SMALL, stochastic_depth=0.5).backbone[-2][-1]
    x = torch.rand(1, 24, 4, 4).expand(2000, -1, -1, -1)
    with torch.no_grad():
        block.block.eval()
        branch = block.block(x[:1])
        dropped = block(x) - x
    kept = dropped.flatten(1).abs().sum(1) > 0
    assert 0 < kept.sum() < 2000
    torch.testing.assert_close(dropped.mean(0), branch[0], rtol=0.15, atol=1e-6)
    block.eval()
    torch.testing.assert_close(block(x[:1]) - x[:1], branch)


def test_the_same_generator_draws_the_same_weights() -> None:
    def drawn(seed: int) -> dict[str, Tensor]:
        model = randomise(Compressor(SMALL), seed=9)
        model.initialise(torch.Generator().manual_seed(seed))
        return model.state_dict()

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if first[name].ndim == 4)
    assert first["backbone.0.1.running_var"].eq(1).all()


def test_initial_weights_neither_vanish_nor_explode() -> None:
    model = Compressor(PRESETS["tiny"].compressor)
    model.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = model.backbone(torch.randn(4, 3, 64, 64))
    assert 0.1 < features.std() < 10


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_weights_need_no_autocast(dtype: torch.dtype) -> None:
    model = randomise(Compressor(SMALL))
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(pixels)
        latents = model.to(dtype)(pixels)
    assert latents.dtype == dtype
    assert (latents.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_training_in_bfloat16_keeps_running_statistics_in_float32() -> None:
    model = cast(randomise(Compressor(SMALL)), torch.bfloat16).train()
    exact = randomise(Compressor(SMALL)).train()
    pixels = torch.rand(4, 3, 64, 64)
    for network in (model, exact):
        for _ in range(5):
            network(pixels).float().square().sum().backward()
    assert model.backbone[0][0].weight.grad.isfinite().all()
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            assert buffer.dtype == torch.float32
            reference = exact.get_buffer(name)
            assert (buffer - reference).abs().max() < 0.1 * reference.abs().max()
