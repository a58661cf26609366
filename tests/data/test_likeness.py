from __future__ import annotations

import io

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageEnhance, ImageFilter
from scipy import ndimage

from littlecascade.data.likeness import BLURRED, fingerprint, mean_colour, reduced, sharpness

PHOTOGRAPHS = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "moon", "rocket")


def photograph(name: str) -> Image.Image:
    return Image.fromarray(getattr(skimage.data, name)()).convert("RGB")


def bits_apart(one: int, other: int) -> int:
    return (one ^ other).bit_count()


def test_a_fingerprint_by_hand() -> None:
    """9 x 8 pixels are the areas themselves: each bit, row by row, says whether the right one of two is brighter."""
    levels = np.full((8, 9), 100, np.uint8)
    assert fingerprint(Image.fromarray(levels)) == 0
    levels[0, 1] = 200  # brighter than its left neighbour; its right one is darker
    levels[7, 8] = 200
    levels[3, 4] = 101  # one level is noise
    assert fingerprint(Image.fromarray(levels)) == 1 << 63 | 1
    rising = np.tile(np.arange(9, dtype=np.uint8) * 20, (8, 1))
    assert fingerprint(Image.fromarray(rising)) == 2**64 - 1
    assert fingerprint(Image.fromarray(rising[:, ::-1])) == 0


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_copies_are_near_and_other_pictures_are_not(name: str) -> None:
    image = photograph(name)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=40)
    copies = [
        Image.open(buffer),
        image.resize((image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.LANCZOS),
        image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC),
        ImageEnhance.Brightness(image).enhance(1.15),
    ]
    original = fingerprint(image)
    assert max(bits_apart(original, fingerprint(copy)) for copy in copies) <= 4
    others = [fingerprint(photograph(other)) for other in PHOTOGRAPHS if other != name]
    assert min(bits_apart(original, other) for other in others) > 8


def test_a_reduced_picture_measures_the_same() -> None:
    image = photograph("rocket").resize((1300, 900))
    small = reduced(image)
    assert (small.mode, max(small.size)) == ("L", 512)
    assert fingerprint(small) == fingerprint(image)
    assert sharpness(small) == sharpness(image)
    assert reduced(Image.new("RGB", (30, 20))).size == (30, 20)


def test_the_mean_colour_by_hand() -> None:
    image = Image.new("RGB", (4, 2), (0, 100, 200))
    image.paste((40, 100, 0), (0, 0, 1, 2))
    assert mean_colour(image) == 0x0A6496


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    """A chequerboard of 0 and 255 by hand: every Laplacian is 4 * 255 or its negative, half of them each."""
    board = (np.indices((20, 20)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert sharpness(Image.fromarray(board)) == (4 * 255) ** 2
    assert sharpness(Image.new("RGB", (50, 50), "red")) == 0
    assert sharpness(Image.new("L", (1, 600))) == 0
    grey = skimage.data.camera()
    expected = ndimage.laplace(grey.astype(float))[1:-1, 1:-1].var()
    assert sharpness(Image.fromarray(grey)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("side", [512, 1024])
def test_blurred_photographs_are_told_from_sharp_ones(name: str, side: int) -> None:
    image = photograph(name)
    blurred = image.filter(ImageFilter.GaussianBlur(0.006 * max(image.size)))
    scale = side / max(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    assert sharpness(image.resize(size, Image.Resampling.BICUBIC)) > BLURRED > sharpness(blurred.resize(size))
