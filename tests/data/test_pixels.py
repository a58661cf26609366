from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from littlecascade.data.pictures import cover, to_rgb
from littlecascade.data.pixels import to_image, to_tensor


def reopened(image: Image.Image, kind: str, **options: object) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return Image.open(io.BytesIO(buffer.getvalue()))


def test_exif_rotation_is_applied() -> None:
    image = Image.new("RGB", (4, 2), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: the upper left corner becomes the upper right one
    upright = to_rgb(reopened(image, "png", exif=exif))
    assert upright.size == (2, 4)
    assert upright.getpixel((1, 0)) == (255, 255, 255)


def test_transparency_lies_on_white() -> None:
    image = Image.new("RGBA", (1, 1), (200, 0, 0, 128))
    expected = tuple(round(colour * 128 / 255 + 255 * 127 / 255) for colour in (200, 0, 0))
    assert np.allclose(to_rgb(image).getpixel((0, 0)), expected, atol=1)
    assert to_rgb(Image.new("LA", (1, 1), (0, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_a_palette_with_a_transparent_entry_lies_on_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.putpixel((1, 0), 1)
    opened = to_rgb(reopened(image, "png", transparency=0))
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (200, 0, 0)]


def test_sixteen_bits_become_eight() -> None:
    values = np.array([[0, 257 * 100, 65535]], np.uint16)
    opened = to_rgb(reopened(Image.fromarray(values), "png"))
    assert [opened.getpixel((x, 0)) for x in range(3)] == [(value,) * 3 for value in (0, 100, 255)]


def test_cmyk_becomes_rgb() -> None:
    red = to_rgb(reopened(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "jpeg")).getpixel((4, 4))
    assert np.allclose(red, (255, 0, 0), atol=4)


def test_cover_keeps_the_middle() -> None:
    image = Image.new("RGB", (30, 10), "black")
    image.paste((255, 255, 255), (10, 0, 20, 10))
    assert np.asarray(cover(image, 10, 10)).min() == 255


def test_tensors_and_pictures_are_each_others_inverse() -> None:
    values = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    tensor = to_tensor(Image.fromarray(values))
    assert tensor.shape == (3, 5, 4)
    assert tensor[1, 2, 3] == values[2, 3, 1] / np.float32(255)
    assert np.array_equal(np.asarray(to_image(tensor)), values)
    assert np.asarray(to_image(torch.tensor([-1.0, 2.0, 0.5]).view(3, 1, 1))).tolist() == [[[0, 255, 128]]]
