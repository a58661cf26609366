"""The towers against transformers', with the same weights."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from littlecascade.conditioning.clip import TextConfig, TextTower, VisionConfig, VisionTower
from littlecascade.errors import InputError

TEXT = TextConfig(vocab_size=60, width=24, depth=3, heads=3, projection=10, positions=12, intermediate=40)
VISION = VisionConfig(width=24, depth=2, heads=3, projection=10, image_size=28, patch=7)
BIG_G = TextConfig(width=1280, depth=32, heads=20, projection=1280, activation="gelu")
VIT_L = VisionConfig(width=1024, depth=24, heads=16, projection=768)


def shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def theirs_text(config: TextConfig):
    transformers = pytest.importorskip("transformers")
    made = transformers.CLIPTextConfig(**config.to_transformers())
    return transformers.CLIPTextModelWithProjection(made).eval()


def theirs_vision(config: VisionConfig):
    transformers = pytest.importorskip("transformers")
    made = transformers.CLIPVisionConfig(**config.to_transformers())
    return transformers.CLIPVisionModelWithProjection(made).eval()


def texts(ends: list[int], eos: int, length: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids under 50 that end at the given positions and are filled up with `eos`; and their mask."""
    ids = torch.randint(1, 50, (len(ends), length), generator=torch.Generator().manual_seed(0))
    for row, end in enumerate(ends):
        ids[row, end:] = eos
    return ids, torch.arange(length) <= torch.tensor(ends)[:, None]


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("ends", [[5], [1, 6, 11]])
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_text_tower_equals_transformers(activation: str, ends: list[int], masked: bool) -> None:
    config = replace(TEXT, activation=activation)
    other = theirs_text(config)
    tower = TextTower(config)
    tower.load_state_dict(other.state_dict())
    ids, mask = texts(ends, config.eos_token_id)
    ours = tower(ids, mask if masked else None)
    expected = other(ids, attention_mask=mask.long() if masked else None, output_hidden_states=True)
    torch.testing.assert_close(ours.hidden, expected.hidden_states[-1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.pooled, expected.text_embeds, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_hidden_states_lack_the_final_norm() -> None:
    tower = TextTower(TEXT)
    tower.text_model.final_layer_norm.weight.zero_()
    hidden, pooled = tower(texts([4], TEXT.eos_token_id)[0])
    assert hidden.std() > 0.01
    assert pooled.abs().max() == 0


@torch.no_grad()
def test_old_configuration_pools_at_the_largest_id() -> None:
    config = replace(TEXT, eos_token_id=2)
    other = theirs_text(config)
    tower = TextTower(config)
    tower.load_state_dict(other.state_dict())
    ids, _ = texts([3, 8], 59)
    ids[0, 1] = 2  # an ordinary token that only looks like the end
    torch.testing.assert_close(tower(ids).pooled, other(ids).text_embeds, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_mask_changes_only_padding() -> None:
    tower = TextTower(TEXT)
    ids, mask = texts([2, 7], TEXT.eos_token_id)
    plain, masked = tower(ids), tower(ids, mask)
    torch.testing.assert_close(plain.hidden[mask], masked.hidden[mask])
    torch.testing.assert_close(plain.pooled, masked.pooled)
    assert not torch.allclose(plain.hidden[~mask], masked.hidden[~mask])


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_vision_tower_equals_transformers(activation: str, batch: int) -> None:
    config = replace(VISION, activation=activation)
    other = theirs_vision(config)
    tower = VisionTower(config)
    tower.load_state_dict(other.state_dict())
    pixels = torch.randn(batch, 3, 28, 28)
    torch.testing.assert_close(tower(pixels), other(pixels).image_embeds, atol=1e-5, rtol=1e-5)


def test_published_sizes_have_the_published_tensors() -> None:
    """bigG's text tower and ViT-L/14's vision tower, which Stable Cascade uses."""
    with torch.device("meta"):
        text, vision = TextTower(BIG_G), VisionTower(VIT_L)
        assert shapes(text) == shapes(theirs_text(BIG_G))
        assert shapes(vision) == shapes(theirs_vision(VIT_L))
    assert sum(p.numel() for p in text.parameters()) == 694_659_840
    assert sum(p.numel() for p in vision.parameters()) == 303_966_208


@pytest.mark.parametrize("config", [TEXT, VISION, BIG_G, VIT_L, replace(TEXT, eos_token_id=2)])
def test_configuration_round_trips(config: TextConfig | VisionConfig) -> None:
    assert type(config).from_transformers(config.to_transformers()) == config


def test_whole_model_configuration() -> None:
    """Its towers carry a wrong projection_dim in some published files; the model's own is the one in use."""
    whole = {
        "model_type": "clip",
        "projection_dim": 1280,
        "text_config": {"hidden_act": "gelu", "hidden_size": 1280, "intermediate_size": 5120, "projection_dim": 512}
        | {"num_attention_heads": 20, "num_hidden_layers": 32},
    }
    assert TextConfig.from_transformers(whole) == BIG_G


@pytest.mark.parametrize(("kind", "name"), [(TextConfig, "CLIPTextConfig"), (VisionConfig, "CLIPVisionConfig")])
def test_defaults_are_those_of_transformers(kind: type[TextConfig | VisionConfig], name: str) -> None:
    theirs = getattr(pytest.importorskip("transformers"), name)()
    assert kind.from_transformers({"hidden_size": theirs.hidden_size}) == kind.from_transformers(theirs.to_dict())


def test_a_text_learns_from_the_start() -> None:
    """Gradients reach every parameter, and the starting output has the scale that CLIP's has."""
    tower = TextTower(TEXT)
    _, pooled = tower(texts([4, 9], TEXT.eos_token_id)[0])
    pooled.sum().backward()
    unused = {name for name, p in tower.named_parameters() if p.grad is None or not p.grad.abs().sum()}
    assert unused <= {f"text_model.encoder.layers.{i}.self_attn.k_proj.bias" for i in range(3)}  # softmax ignores it
    assert 0.3 < float(pooled.detach().std()) < 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_is_close(dtype: torch.dtype) -> None:
    tower = TextTower(TEXT)
    ids, mask = texts([3, 8], TEXT.eos_token_id)
    full = tower(ids, mask)
    half = tower.to(dtype)(ids, mask)
    assert half.hidden.dtype == half.pooled.dtype == dtype
    torch.testing.assert_close(half.pooled.float(), full.pooled, atol=0.05, rtol=0.05)


def test_mistakes_are_told() -> None:
    with pytest.raises(InputError, match="Did you mean 'gelu'"):
        replace(TEXT, activation="gleu")
    with pytest.raises(InputError, match="7 heads"):
        replace(TEXT, heads=7)
    with pytest.raises(InputError, match="no CLIP tower"):
        TextConfig.from_transformers({"model_type": "t5"})
    with pytest.raises(InputError, match="13 tokens is over the 12 positions"):
        TextTower(TEXT)(torch.zeros(1, 13, dtype=torch.long))
    with pytest.raises(InputError, match="28 x 28"):
        VisionTower(VISION)(torch.zeros(1, 3, 32, 28))


def test_building_on_meta_draws_nothing() -> None:
    """Drawing there makes torch import its compiler, which takes longer than all else before the first picture."""
    code = (
        "import sys, torch\n"
        "from littlecascade.conditioning.clip import *\n"
        "with torch.device('meta'):\n"
        "    TextTower(TextConfig(width=8, depth=1, heads=1, projection=4))\n"
        "    VisionTower(VisionConfig(width=8, depth=1, heads=1, projection=4))\n"
        "sys.exit('torch._dynamo' in sys.modules or 'sympy' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
