from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from littlecascade.pipelines.metrics import compare, psnr, ssim


@pytest.mark.parametrize("size", [(64, 48), (11, 11), (130, 17)])
@pytest.mark.parametrize("change", ["blur", "noise", "inverse"])
def test_both_equal_scikit_image(size: tuple[int, int], change: str, gradient, noise) -> None:
    reference = pytest.importorskip("skimage.metrics")
    original = Image.blend(gradient(*size), noise(*size, 0), 0.3)
    other = {
        "blur": original.filter(ImageFilter.GaussianBlur(2)),
        "noise": Image.blend(original, noise(*size, 1), 0.2),
        "inverse": original.point(lambda value: 255 - value),
    }[change]
    x, y = np.asarray(original), np.asarray(other)
    as_published = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    expected = reference.structural_similarity(x, y, channel_axis=-1, **as_published)
    assert ssim(original, other) == pytest.approx(expected, abs=1e-6)
    assert psnr(original, other) == pytest.approx(reference.peak_signal_noise_ratio(x, y), abs=1e-3)


def test_equal_pictures_are_equal(noise) -> None:
    picture = noise(32, 32, 0)
    assert ssim(picture, picture) == pytest.approx(1)
    assert psnr(picture, picture) == 120


def test_the_factors_of_the_official_example() -> None:
    """1024 x 1024 pixels to 24 x 24 latents."""
    picture = Image.new("RGB", (1024, 1024))
    found = compare(picture, picture, torch.zeros(16, 24, 24))
    assert found["side_factor"] == pytest.approx(42.67, abs=0.01)
    assert found["compression_factor"] == pytest.approx(341.33, abs=0.01)
