from __future__ import annotations

from pathlib import Path

import pytest
import torch

from littlecascade.conditioning.clip import VisionConfig, VisionTower
from littlecascade.conditioning.image import STD, ImageEncoder, fit_square
from littlecascade.errors import InputError

CONFIG = VisionConfig(width=24, depth=2, heads=3, projection=10, image_size=32, patch=8)
GREY_LEVEL = 1 / 255 / min(STD)


@pytest.fixture
def encoder() -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(VisionTower(CONFIG))


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """A smooth random picture with sharp edges, as bytes `(3, H, W)`, in which bicubic overshoot clips nothing."""
    coarse = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    smooth[:, : height // 3, : width // 2] = 1.0
    return ((0.2 + 0.6 * smooth) * 255).round().byte()


@pytest.mark.parametrize("size", [(32, 32), (48, 80), (101, 67), (20, 31), (300, 200), (33, 32)])
def test_preparation_equals_transformers(encoder: ImageEncoder, size: tuple[int, int]) -> None:
    """To 1.5 grey levels: transformers resizes bytes and rounds twice, and here nothing is rounded."""
    transformers = pytest.importorskip("transformers")
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_convert_rgb=False
    )
    pixels = picture(*size)
    expected = processor(pixels, return_tensors="pt").pixel_values
    ours = encoder.preprocess(pixels[None] / 255)
    assert ours.shape == (1, 3, 32, 32)
    assert (ours - expected).abs().max() < 1.5 * GREY_LEVEL
    assert (ours - expected).abs().mean() < 0.5 * GREY_LEVEL


@pytest.mark.parametrize(("height", "width"), [(5, 9), (9, 5), (8, 8), (64, 7)])
def test_the_middle_is_kept(height: int, width: int) -> None:
    ramp = torch.linspace(0, 1, width).expand(1, 3, height, width)
    square = fit_square(ramp, 8)
    assert square.shape == (1, 3, 8, 8)
    if width > height:
        assert abs(float(square.mean()) - 0.5) < 0.5 / 8


def test_embeds_pictures_of_any_size(encoder: ImageEncoder) -> None:
    batch = torch.stack([picture(40, 60, seed) for seed in range(3)]) / 255
    together = encoder.encode(batch)
    assert together.shape == (3, 1, 10)
    assert not together.requires_grad
    torch.testing.assert_close(together[1:2], encoder.encode(batch[1:2]), atol=1e-5, rtol=1e-5)


def test_save_and_load_keep_everything(encoder: ImageEncoder, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    encoder.save(tmp_path)
    pixels = picture(32, 32)[None] / 255
    again = ImageEncoder.load(tmp_path)
    assert again.tower.config == CONFIG
    torch.testing.assert_close(again.encode(pixels), encoder.encode(pixels))
    reference = transformers.CLIPVisionModelWithProjection.from_pretrained(tmp_path).eval()
    processor = transformers.CLIPImageProcessor.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = reference(processor(picture(32, 32), return_tensors="pt").pixel_values).image_embeds
    torch.testing.assert_close(again.encode(pixels)[:, 0], expected, atol=1e-4, rtol=1e-4)
    encoder.save(tmp_path, dtype=torch.float16)
    assert ImageEncoder.load(tmp_path).encode(pixels).dtype == torch.float16


def test_mean_and_deviation_are_read(encoder: ImageEncoder, tmp_path: Path) -> None:
    ImageEncoder(encoder.tower, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)).save(tmp_path)
    assert float(ImageEncoder.load(tmp_path).preprocess(torch.ones(1, 3, 32, 32)).max()) == 1.0
    (tmp_path / "preprocessor_config.json").unlink()
    assert ImageEncoder.load(tmp_path).std == STD


def test_mistakes_are_told(encoder: ImageEncoder) -> None:
    with pytest.raises(InputError, match=r"\(3, 32, 32\)"):
        encoder.encode(torch.zeros(3, 32, 32))
