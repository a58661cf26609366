from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from littlecascade.data import pixels
from littlecascade.data.pixels import cover, decode, pixel_cache, to_image, to_rgb, to_tensor
from littlecascade.data.sources import Member, Sample, find_samples
from littlecascade.errors import InputError


def save(path: Path, image: Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


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


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_a_broken_picture_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"shard/a\.png can't be decoded"):
        decode(Sample("shard/a.png", Member(path, 0, len(content))), 8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three good pictures with captions, and two samples that can't be used."""
    data = tmp_path / "data"
    for number, colour in enumerate(((250, 0, 0), (0, 250, 0), (0, 0, 250))):
        save(data / f"{number}.png", Image.new("RGB", (6, 4), colour))
        (data / f"{number}.txt").write_text(f"one {number}\ntwo {number}\n")
    (data / "00.png").write_bytes(b"broken")
    save(data / "11.png", Image.new("RGB", (4, 4)))
    (data / "11.json").write_text("{")
    return data


def test_the_cache_holds_what_can_be_read_and_names_the_rest(folder: Path, tmp_path: Path) -> None:
    cache = pixel_cache(find_samples(str(folder)), 4, tmp_path / "cache")
    assert len(cache) == len(cache.pixels) == 3
    assert cache.captions == [[f"one {number}", f"two {number}"] for number in range(3)]
    assert [line.split()[0].rstrip(":") for line in cache.broken] == ["00.png", "11.png"]
    expected = torch.zeros(3, 4, 4)
    expected[1] = 250 / 255
    assert torch.allclose(cache.batch([1])[0], expected)


def test_the_cache_is_used_again_until_data_or_size_change(folder: Path, tmp_path: Path, monkeypatch) -> None:
    def key(size: int = 4) -> str:
        return pixel_cache(find_samples(str(folder)), size, tmp_path / "cache").key

    first = key()
    with monkeypatch.context() as patch:
        patch.setattr(pixels, "_fill", None)
        assert key() == first
    assert key(size=2) != first
    for name in ("1.png", "1.txt"):
        before = key()
        os.utime(folder / name, ns=(1, hash(name) % 1000))
        assert key() != before
    (folder / "2.png").unlink()
    assert len(pixel_cache(find_samples(str(folder)), 4, tmp_path / "cache")) == 2


def test_a_crash_while_filling_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch) -> None:
    def crash(*arguments: object) -> None:
        raise KeyboardInterrupt

    root = tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(Sample, "captions", crash)
        with pytest.raises(KeyboardInterrupt):
            pixel_cache(find_samples(str(folder)), 4, root)
    assert list(root.iterdir()) == []
    assert len(pixel_cache(find_samples(str(folder)), 4, root)) == 3


def test_nothing_but_broken_pictures_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"None of the 1 pictures could be decoded; the first: a\.png"):
        pixel_cache(find_samples(str(tmp_path / "a.png")), 4, tmp_path / "cache")
