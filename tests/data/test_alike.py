from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance

from littlecascade.data.alike import DISTANCE, Comparison, alike
from littlecascade.data.likeness import fingerprint, mean_colour
from littlecascade.data.pictures import open_picture
from littlecascade.data.sources import find_samples

PHOTOGRAPHS = ("astronaut", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "moon", "rocket")
GREY = 0x808080


def yes(one: int, other: int) -> bool:
    return True


@settings(deadline=None)  # processor time is not what is tested
@given(
    originals=st.lists(st.integers(0, 2**64 - 1), max_size=8),
    flips=st.lists(st.lists(st.integers(0, 63), max_size=DISTANCE + 2), max_size=8),
)
def test_groups_are_those_of_comparing_all_with_the_first_of_each(originals: list[int], flips: list[list[int]]) -> None:
    changed = [value ^ sum({1 << bit for bit in bits}) for value in originals[:3] for bits in flips]
    fingerprints = originals + changed
    groups = {index: {index} for index in range(len(fingerprints))}

    def near(one: int, other: int) -> bool:
        return (fingerprints[one] ^ fingerprints[other]).bit_count() <= DISTANCE

    found = list(alike(fingerprints, [GREY] * len(fingerprints), yes))
    members = sorted(index for group in found for index in group)
    assert members == sorted(set(members))
    assert all(near(group[0], other) for group in found for other in group)
    firsts = [index for index in groups if index not in members] + [group[0] for group in found]
    assert not any(near(one, other) for one in firsts for other in firsts if one != other)


def test_a_hundred_thousand_take_seconds() -> None:
    """Comparing all with all would be five thousand million comparisons."""
    generator = np.random.default_rng(0)
    originals = generator.integers(0, 2**64, 90_000, dtype=np.uint64)
    bits = np.uint64(1) << generator.integers(0, 64, (10_000, DISTANCE), dtype=np.uint64)
    copies = originals[:10_000] ^ np.bitwise_or.reduce(bits, axis=1)
    start = time.process_time()
    groups = list(alike(np.concatenate([originals, copies]), np.full(100_000, GREY, np.uint32), yes))
    assert groups == [[index, 90_000 + index] for index in range(10_000)]
    assert time.process_time() - start < 8


def test_a_hundred_thousand_of_one_kind_are_compared_with_their_first_alone() -> None:
    asked: list[int] = []

    def same(one: int, other: int) -> bool:
        asked.append(one)
        return True

    (group,) = alike(np.zeros(100_000, np.uint64), np.zeros(100_000, np.uint32), same)
    assert group == list(range(100_000))
    assert asked == [0] * 99_999


def test_what_has_another_colour_is_not_compared() -> None:
    """0xC80A0A lightened by a quarter is 0xFA0D0D; the others have its brightness, or no more than its shape."""
    colours = [0xC80A0A, 0xFA0D0D, 0x0AC80A, 0x640505]
    assert list(alike([7] * 4, colours, yes)) == [[0, 1]]


def jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=40)
    return Image.open(buffer)


def cropped(image: Image.Image) -> Image.Image:
    across, down = image.width // 100, image.height // 100
    return image.crop((across, down, image.width - across, image.height - down))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "jpeg": jpeg,
    "half": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS),
    "double": lambda image: image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC),
    "lighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.85),
    "cropped": cropped,
}


def save(folder: Path, images: dict[str, Image.Image]) -> Path:
    for name, image in images.items():
        image.save(folder / f"{name}.png")
    return folder


def photograph(name: str) -> Image.Image:
    image = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
    return image.resize((300, 300 * image.height // image.width), Image.Resampling.LANCZOS)


@pytest.mark.parametrize("name", ["astronaut", "coffee", "grass"])
def test_copies_of_photographs_are_told_from_others(name: str, tmp_path: Path) -> None:
    image = photograph(name)
    others = {other: photograph(other) for other in PHOTOGRAPHS if other != name}
    copies = {copy: make(image) for copy, make in COPIES.items()}
    samples = find_samples(str(save(tmp_path, {"0": image} | copies | others)))
    opened = [open_picture(tmp_path / sample.name) for sample in samples]
    with Comparison([sample.picture for sample in samples]) as same:
        (group,) = alike([fingerprint(each) for each in opened], [mean_colour(each) for each in opened], same)
    assert {samples[index].name for index in group} == {"0.png", *(f"{copy}.png" for copy in copies)}


def face(mouth: tuple[int, int], colour: str = "gold") -> Image.Image:
    """An icon: a disc with eyes and a mouth, from `mouth[0]` to `mouth[1]` degrees of an ellipse."""
    image = Image.new("RGB", (128, 128), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((4, 4, 124, 124), colour)
    for left in (38, 78):
        draw.ellipse((left, 38, left + 12, 56), "black")
    draw.arc((34, 50, 94, 100), *mouth, "black", width=8)
    return image


def test_icons_that_differ_in_a_detail_are_no_copies(tmp_path: Path) -> None:
    smile = face((10, 170))
    icons = {"a": smile, "b": face((190, 350)), "c": face((0, 360)), "d": jpeg(smile), "e": smile.resize((96, 96))}
    samples = find_samples(str(save(tmp_path, icons)))
    with Comparison([sample.picture for sample in samples]) as same:
        assert [same(0, index) for index in range(5)] == [True, False, False, True, True]


def test_what_can_not_be_read_is_a_copy_of_none(tmp_path: Path) -> None:
    save(tmp_path, {"a": face((0, 90)), "b": face((0, 90))})
    samples = find_samples(str(tmp_path))
    (tmp_path / "b.png").write_bytes(b"broken since")
    with Comparison([sample.picture for sample in samples]) as same:
        assert same(0, 0)
        assert not same(0, 1)
