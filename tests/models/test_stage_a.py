from __future__ import annotations

import pytest
import torch
from torch import nn

from littlecascade.errors import InputError
from littlecascade.models.config import DiscriminatorConfig, StageAConfig
from littlecascade.models.discriminator import Discriminator
from littlecascade.models.stage_a import StageA
from littlecascade.presets import PRESETS

SMALL = StageAConfig(bottleneck_depth=2, width=24, codebook_size=32)


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every tensor drawn anew, norms and gammas far from where they start, variances positive."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            low, high = (0.5, 2.0) if name.endswith("running_var") else (-0.5, 0.5)
            tensor.uniform_(low, high, generator=generator)
    return module.eval()


@pytest.fixture(scope="module")
def small() -> StageA:
    return randomise(StageA(SMALL))


def assert_close_in_scale(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


def test_official_size(golden_keys) -> None:
    with torch.device("meta"):
        model = StageA(PRESETS["full"].stage_a)
    assert sum(parameter.numel() for parameter in model.parameters()) == 18_406_894
    assert len(model.state_dict()) == 122
    golden_keys("stage_a", model.state_dict())


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 3])
def test_agrees_with_diffusers(levels: int, batch: int) -> None:
    wuerstchen = pytest.importorskip("diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model")
    config = StageAConfig(levels=levels, bottleneck_depth=2, width=24, codebook_size=32)
    ours = randomise(StageA(config), seed=levels)
    theirs = wuerstchen.PaellaVQModel(
        levels=levels,
        bottleneck_blocks=config.bottleneck_depth,
        embed_dim=config.width,
        latent_channels=config.latent_channels,
        num_vq_embeddings=config.codebook_size,
        scale_factor=config.scale,
    ).eval()
    renamed = {
        name.replace("vquantizer.codebook", "vquantizer.embedding"): value for name, value in ours.state_dict().items()
    }
    theirs.load_state_dict(renamed)

    pixels = torch.rand(batch, 3, 40, 24)
    with torch.no_grad():
        latents = ours.encode(pixels)
        raw = theirs.encode(pixels).latents
        assert_close_in_scale(latents * config.scale, raw)
        assert_close_in_scale(ours.decode(latents), theirs.decode(raw).sample)

        quantised = ours.quantise(latents)
        vectors, _, (_, _, indices) = theirs.vquantizer(raw)
        assert torch.equal(quantised.indices.flatten(), indices)
        assert_close_in_scale(quantised.vectors * config.scale, vectors)
        decoded = ours.decode(quantised.vectors)
        assert_close_in_scale(decoded, theirs.decode(raw, force_not_quantize=False).sample)


def test_each_picture_of_a_batch_is_as_alone(small: StageA) -> None:
    pixels = torch.rand(3, 3, 16, 24)
    with torch.no_grad():
        together = small.decode(small.encode(pixels))
        alone = torch.cat([small.decode(small.encode(picture[None])) for picture in pixels])
    assert_close_in_scale(together, alone)


def test_a_side_that_does_not_divide_is_refused(small: StageA) -> None:
    with pytest.raises(InputError, match="multiples of 4, not 22x16"):
        small.encode(torch.rand(1, 3, 16, 22))


def test_each_picture_is_decoded_from_the_latents_that_were_asked_for(small: StageA) -> None:
    pixels, noise = torch.rand(2, 3, 16, 16), torch.randn(2, 4, 4, 4)
    with torch.no_grad():
        mixed, losses = small(pixels, quantise=torch.tensor([True, False]), noise=noise)
        latents = small.encode(pixels)
        quantised = small.quantise(latents)
        torch.testing.assert_close(mixed[:1], small.decode(quantised.vectors[:1]))
        torch.testing.assert_close(mixed[1:], small.decode(latents[1:] + noise[1:]))
    assert losses == {"codebook": quantised.codebook_loss, "commitment": quantised.commitment_loss}


def test_the_same_generator_draws_the_same_weights_and_leaves_none_as_it_was() -> None:
    def drawn(seed: int) -> dict[str, torch.Tensor]:
        model = randomise(StageA(SMALL))
        model.initialise(torch.Generator().manual_seed(seed), gain=0.25)
        return model.state_dict()

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    weights = [name for name in first if name.endswith("weight") and first[name].ndim > 1]
    assert not any(torch.equal(first[name], other[name]) for name in weights)
    assert first["up_blocks.1.gammas"].tolist() == [0, 0, 0.25, 0, 0, 0.25]
    assert first["down_blocks.3.1.running_var"].eq(1).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_weights_need_no_autocast(small: StageA, dtype: torch.dtype) -> None:
    pixels = torch.rand(2, 3, 16, 16)
    half = StageA(SMALL).eval()
    half.load_state_dict(small.state_dict())
    half.to(dtype)
    with torch.no_grad():
        latents, expected = half.encode(pixels), small.encode(pixels)
        assert latents.dtype == half.decode(expected).dtype == dtype
        assert_close_in_scale(latents.float(), expected, 0.03)
        assert_close_in_scale(half.decode(expected).float(), small.decode(expected), 0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_few_steps_learn_one_batch(dtype: torch.dtype) -> None:
    model = StageA(SMALL)
    model.initialise(torch.Generator().manual_seed(0))
    model.to(dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    pixels = torch.rand(4, 3, 1, 1, generator=torch.Generator().manual_seed(1)).expand(4, 3, 16, 16)
    errors = []
    for _ in range(25):
        decoded, losses = model(pixels)
        error = (decoded.float() - pixels).square().mean()
        optimizer.zero_grad()
        (error + losses["codebook"] + 0.25 * losses["commitment"]).backward()
        optimizer.step()
        errors.append(float(error.detach()))
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert min(errors[-5:]) < 0.2 * errors[0]


@pytest.mark.parametrize(
    ("config", "side"), [(DiscriminatorConfig(), 128), (DiscriminatorConfig(width=64, depth=3), 32)]
)
def test_discriminator_judges_patches(config: DiscriminatorConfig, side: int) -> None:
    torch.manual_seed(0)
    model = Discriminator(config)
    assert model(torch.rand(2, 3, side, side + 8)).shape == (2, 1, side >> config.depth, -(-(side + 8) >> config.depth))


def test_discriminator_is_bound_in_its_gain() -> None:
    """The largest singular value of each strided convolution's matrix is one, once the iteration has converged."""
    torch.manual_seed(0)
    model = Discriminator(DiscriminatorConfig(width=16, depth=3))
    for _ in range(100):
        model(torch.rand(1, 3, 16, 16))
    strided = [layer for layer in model.encoder if isinstance(layer, nn.Conv2d)]
    for layer in strided:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-3)


def test_discriminator_tells_two_textures_apart() -> None:
    torch.manual_seed(0)
    model = Discriminator(DiscriminatorConfig(width=32, depth=3))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    stripes = (torch.arange(32) % 2).float().expand(4, 3, 32, 32)
    for _ in range(60):
        real = stripes + 0.1 * torch.randn(4, 3, 32, 32)
        fake = 0.5 + 0.1 * torch.randn(4, 3, 32, 32)
        loss = nn.functional.softplus(-model(real)).mean() + nn.functional.softplus(model(fake)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.9  # 2 log 2 = 1.39 without a clue
