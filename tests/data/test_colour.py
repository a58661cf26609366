"""Profiles that are made up byte by byte, and colours worked out from the primaries."""

from __future__ import annotations

import io
import itertools
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from littlecascade.data.colour import in_srgb
from littlecascade.data.pictures import open_picture, to_rgb

D65, D50 = np.array([0.95047, 1, 1.08883]), np.array([0.96422, 1, 0.82521])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
GAMMA = 563 / 256  # of Adobe RGB (1998), as its profile has it
COLOURS = np.array([[200, 120, 80], [90, 160, 110], [100, 110, 180], [128, 128, 128], [250, 240, 230]])

Primaries = tuple[tuple[float, float], ...]


def to_xyz(primaries: Primaries) -> np.ndarray:
    """From linear red, green and blue to XYZ, seen under D50 as profiles have it: white becomes D50's."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    columns *= np.linalg.solve(columns, D65)
    cones = np.diag((BRADFORD @ D50) / (BRADFORD @ D65))
    return np.linalg.inv(BRADFORD) @ cones @ BRADFORD @ columns


def expected(colours: np.ndarray, primaries: Primaries, gamma: float) -> np.ndarray:
    return curved(np.linalg.solve(to_xyz(SRGB), to_xyz(primaries) @ ((colours / 255) ** gamma).T).T)


def curved(linear: np.ndarray) -> np.ndarray:
    """Levels of sRGB, from 0 to 255, of linear values."""
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def profile(primaries: Primaries, gamma: float) -> bytes:
    """An ICC profile of a screen: three primaries, white and one curve."""
    columns = to_xyz(primaries).T
    point = {name: b"XYZ \0\0\0\0" + struct.pack(">3i", *np.round(value * 65536).astype(int)) for name, value in
             zip((b"rXYZ", b"gXYZ", b"bXYZ", b"wtpt"), [*columns, D50], strict=True)}  # fmt: skip
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    return with_tags(b"mntrRGB XYZ ", {**point, b"rTRC": curve, b"gTRC": curve, b"bTRC": curve})


def with_tags(kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile, version 2: a header of 128 bytes, a table of tags, and their data.

    kind: class, colour space and connection space, of four letters each.
    """
    tags = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78 + 1 + 2), **tags}
    offset = 128 + 4 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for key, value in tags.items():
        table += key + struct.pack(">II", offset + len(data), len(value))
        data += value + bytes(-len(value) % 4)
    size = offset + len(data)
    head = struct.pack(">I4xI", size, 0x02100000) + kind + bytes(12) + b"acsp"
    illuminant = struct.pack(">3i", *np.round(D50 * 65536).astype(int))
    return head.ljust(68, b"\0") + illuminant.ljust(60, b"\0") + table + data


def lab(inks: np.ndarray) -> np.ndarray:
    """What a made-up press prints: L*, a*, b* of inks (..., 4) that are on or off, in whole numbers.

    Paper is white and all inks together are black, so that there is no white or black for a conversion to adjust.
    """
    cyan, magenta, yellow, black = np.moveaxis(inks, -1, 0)
    left = (1 - 0.75 * black) * (1 - inks.prod(-1))
    colour = (100 - 22 * cyan - 25 * magenta - 6 * yellow, 35 * magenta - 20 * cyan, 40 * yellow - 25 * cyan)
    return np.round(np.stack([left * value for value in colour], -1))


def press() -> bytes:
    """An ICC profile of that press: a table (`mft1`) of all 16 mixtures in Lab of 8 bits, linear in between."""
    mixtures = np.array(list(itertools.product((0, 1), repeat=4)))  # the last ink changes first
    values = np.round(lab(mixtures) * [2.55, 1, 1] + [0, 128, 128]).astype(np.uint8)
    straight = bytes(range(256))
    identity = struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel().tolist())
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + straight * 4 + values.tobytes() + straight * 3
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", *np.round(D50 * 65536).astype(int))
    return with_tags(b"prtrCMYKLab ", {b"wtpt": white, b"A2B0": table})


def lab_to_srgb(values: np.ndarray) -> np.ndarray:
    """CIE 1976, seen under D50: levels of sRGB from 0 to 255."""
    lightness, a, b = np.moveaxis(values, -1, 0)
    middle = (lightness + 16) / 116
    roots = np.stack([middle + a / 500, middle, middle - b / 200], -1)
    xyz = np.where(roots > 6 / 29, roots**3, 3 * (6 / 29) ** 2 * (roots - 4 / 29)) * D50
    return curved(np.linalg.solve(to_xyz(SRGB), xyz.T).T)


def test_inks_of_a_jpeg_file_become_the_colours_that_the_press_prints(tmp_path: Path) -> None:
    inks = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1], [1, 1, 0, 1]])
    halves = (lab(np.array([0, 1, 0, 0])) + lab(np.array([0, 1, 0, 1]))) / 2  # magenta, half of black
    levels = np.concatenate([255 * inks, [[0, 255, 0, 127.5]]]).round().astype(np.uint8)
    patches = np.repeat(np.repeat(levels[None], 16, 0), 16, 1)
    image = Image.frombytes("CMYK", (16 * len(levels), 16), patches.tobytes())
    image.save(tmp_path / "a.jpg", quality=100, subsampling=0, icc_profile=press())
    opened = np.asarray(open_picture(tmp_path / "a.jpg"))[8, 8::16]
    wanted = lab_to_srgb(np.concatenate([lab(inks), halves[None]]))
    assert np.abs(opened - wanted).max() <= 2.5
    plain = np.asarray(Image.open(tmp_path / "a.jpg").convert("RGB"))[8, 8::16]
    assert np.abs(plain - wanted).max() > 50  # what the profile changes


def strip(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(COLOURS[None].astype(np.uint8)).convert(mode)


@pytest.mark.parametrize(("primaries", "gamma"), [(DISPLAY_P3, 2.2), (ADOBE, GAMMA)])
def test_colours_of_wider_spaces_become_those_of_srgb(tmp_path: Path, primaries: Primaries, gamma: float) -> None:
    strip().save(tmp_path / "a.png", icc_profile=profile(primaries, gamma))
    opened = open_picture(tmp_path / "a.png")
    wanted = expected(COLOURS, primaries, round(gamma * 256) / 256)
    assert np.abs(wanted - COLOURS).max() > 10  # else the test would show nothing
    assert np.abs(np.asarray(opened)[0] - wanted).max() <= 1.5
    assert "icc_profile" not in opened.info


def test_transparency_stays(tmp_path: Path) -> None:
    image = strip("RGBA")
    image.putalpha(Image.fromarray(np.array([[0, 255, 255, 255, 255]], np.uint8)))
    image.save(tmp_path / "a.png", icc_profile=profile(ADOBE, GAMMA))
    levels = np.asarray(open_picture(tmp_path / "a.png", "red"))[0]
    assert levels[0].tolist() == [255, 0, 0]
    assert np.abs(levels[1:] - expected(COLOURS, ADOBE, GAMMA)[1:]).max() <= 1.5


def test_a_palette_is_converted_too(tmp_path: Path) -> None:
    strip().quantize(8).save(tmp_path / "a.png", icc_profile=profile(ADOBE, GAMMA))
    assert np.abs(np.asarray(open_picture(tmp_path / "a.png"))[0] - expected(COLOURS, ADOBE, GAMMA)).max() <= 3


def opened(image: Image.Image, **options: object) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return Image.open(buffer)


@pytest.mark.parametrize(
    "icc",
    [
        profile(DISPLAY_P3, 2.2)[:300],
        b"no profile",
        ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    ],
)
def test_what_is_broken_of_another_kind_or_srgb_already_changes_nothing(icc: bytes) -> None:
    image = opened(strip(), icc_profile=icc)
    assert in_srgb(image) is image
    assert np.array_equal(np.asarray(to_rgb(image))[0], COLOURS)


def test_without_anything_to_do_nothing_is_copied() -> None:
    image = opened(strip())
    assert to_rgb(image) is image
