from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps

from littlecascade.data.fit import FITS, Fit, fitted, most_detailed
from littlecascade.errors import InputError


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def scene(width: int, height: int) -> Image.Image:
    """Smooth colours with sharp edges, as photographs have them."""
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    draw = ImageDraw.Draw(image)
    for number in range(12):
        left, top = width * number // 14, height * (5 * number % 12) // 14
        draw.ellipse((left, top, left + width // 5, top + height // 7), (20 * number, 255 - 18 * number, 90))
    return image


def reopened(image: Image.Image, kind: str, **options: object) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return Image.open(io.BytesIO(buffer.getvalue()))


def decibels(one: Image.Image, other: Image.Image) -> float:
    error = np.square(np.asarray(one, np.float64) - np.asarray(other, np.float64)).mean()
    return 10 * np.log10(255**2 / max(error, 1e-9))


@pytest.mark.parametrize(
    ("fit", "crop", "window", "target"),
    [
        ("width", "none", (768, 512), (512, 341)),  # the fork's own example: 512 wide x 341 tall
        ("short", "none", (768, 512), (768, 512)),
        ("long", "none", (768, 512), (512, 341)),
        ("width", "square", (512, 512), (512, 512)),
        ("short", "center", (512, 512), (512, 512)),
        ("long", "smart", (512, 512), (512, 512)),
        ("bucket", "center", (748, 512), (608, 416)),
        ("bucket", "square", (512, 512), (512, 512)),
    ],
)
def test_what_is_kept_and_what_it_becomes(
    fit: str, crop: str, window: tuple[int, int], target: tuple[int, int]
) -> None:
    """The bucket by hand: 512 * sqrt(3/2) = 627.07, down to 608; over 3/2: 418.05, to 416; 512 * 608 / 416 = 748.3."""
    assert Fit(512, fit, crop).plan(768, 512) == (window, target)


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from(FITS))
def test_windows_are_as_large_as_their_shape_lets_them(width: int, height: int, fit: str) -> None:
    window, target = Fit(256, fit, "center").plan(width, height)
    assert window[0] == width or window[1] == height
    assert 1 <= window[0] <= width
    assert 1 <= window[1] <= height
    assert abs(window[0] * target[1] - window[1] * target[0]) <= max(target)  # a pixel of the window, at the most
    if fit != "bucket":
        assert target == (256, 256)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_cut_where_it_shows(orientation: int) -> None:
    """Against Pillow's own rotation, then a crop and a resize in two steps."""
    stored = noise(60, 40)
    exif = Image.Exif()
    exif[0x0112] = orientation
    made = fitted(reopened(stored, "png", exif=exif), Fit(20, "width", "square", "nearest"))
    upright = ImageOps.exif_transpose(reopened(stored, "png", exif=exif))
    assert made.original == upright.size
    expected = upright.crop(made.box).resize((20, 20), Image.Resampling.NEAREST)
    assert np.array_equal(np.asarray(made.image), np.asarray(expected))


@pytest.mark.parametrize("crop", ["none", "square"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_not_decoded_in_full_and_looks_the_same(crop: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    opened = reopened(scene(1200, 900), "jpeg", quality=95, exif=exif)
    made = fitted(opened, Fit(150, "width", crop))
    assert opened.size[0] in (300, 600)
    whole = ImageOps.exif_transpose(reopened(scene(1200, 900), "jpeg", quality=95, exif=exif))
    expected = whole.crop(made.box).resize(made.image.size, Image.Resampling.LANCZOS)
    assert decibels(made.image, expected) > 40


def test_nothing_is_touched_where_nothing_is_to_be_done() -> None:
    image = noise(64, 48)
    made = fitted(image, Fit(64))
    assert made.image.tobytes() == image.tobytes()
    assert not made.enlarged
    assert fitted(image, Fit(65)).enlarged


def test_transparency_lies_on_the_colour() -> None:
    made = fitted(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), Fit(4), "#102030")
    assert made.image.getpixel((1, 1)) == (0x10, 0x20, 0x30)


@pytest.mark.parametrize("size", [(300, 100), (100, 300)])
def test_smart_takes_where_something_is_to_be_seen(size: tuple[int, int]) -> None:
    for place in (0, 30, 120, 200):
        image = Image.new("RGB", size, "grey")
        corner = (place, 20) if size[0] > size[1] else (20, place)
        image.paste(noise(60, 60), corner)
        left, top, right, bottom = fitted(image, Fit(64, "short", "smart")).box
        assert left <= corner[0] <= corner[0] + 60 <= right
        assert top <= corner[1] <= corner[1] + 60 <= bottom


def test_smart_takes_the_middle_of_what_is_the_same_everywhere() -> None:
    assert fitted(Image.new("RGB", (256, 100)), Fit(50, "short", "smart")).box == (78, 0, 178, 100)


@given(seed=st.integers(0, 1000), share=st.floats(0.1, 0.9))
def test_no_other_window_has_more_detail(seed: int, share: float) -> None:
    """Each window's gradients summed by themselves."""
    rng = np.random.default_rng(seed)
    levels = (rng.random((20, 50)) * rng.random(50) * 255).astype(np.uint8)
    first = most_detailed(Image.fromarray(levels), share, across=True)
    padded = np.pad(levels.astype(float), 1, mode="edge")
    across, down = padded[1:-1, 2:] - padded[1:-1, :-2], padded[2:, 1:-1] - padded[:-2, 1:-1]
    magnitude = np.sqrt(across**2 + down**2) / 2
    width = max(1, round(share * 50))
    sums = [magnitude[:, left : left + width].sum() for left in range(50 - width + 1)]
    assert sums[round(first * 50)] == pytest.approx(max(sums), rel=1e-5)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"fit": "widht"}, "Did you mean 'width'?"),
        ({"crop": "centre"}, "Did you mean 'center'?"),
        ({"filter": "lanzcos"}, "Did you mean 'lanczos'?"),
        ({"size": 0}, "at least 1"),
        ({"fit": "bucket"}, "crop by center or smart"),
        ({"fit": "bucket", "crop": "center", "ratios": ("1:9",), "size": 64}, "leaves no side of 32"),
        ({"fit": "bucket", "crop": "square", "ratios": ("16/9",)}, "no square among the buckets"),
        ({"fit": "bucket", "crop": "center", "ratios": ("a",)}, "is no ratio"),
    ],
)
def test_what_makes_no_sense_is_told(values: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as caught:
        Fit(**values)
    assert said in str(caught.value)
