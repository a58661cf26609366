from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from littlecascade.errors import InputError
from littlecascade.models.stage_b import StageB
from littlecascade.models.stage_c import StageC
from littlecascade.pipelines.size import Frame, check_size, nearest_size, size_like
from littlecascade.presets import PRESETS, Preset

SIDES = st.integers(1, 3000)
COMPRESSIONS = st.sampled_from([32.0, 42.67])


@pytest.mark.parametrize(
    ("size", "latents", "drawn"),
    [
        ((1024, 1024), (24, 24), (1024, 1024)),
        ((1536, 1024), (24, 36), (1024, 1536)),
        ((1280, 768), (18, 30), (768, 1280)),
        ((2048, 2048), (48, 48), (2048, 2048)),
        ((1064, 1000), (24, 25), (1024, 1064)),
        ((1066, 1025), (25, 25), (1064, 1072)),
    ],
)
def test_official_sizes_have_the_official_latents(size: tuple[int, int], latents: tuple, drawn: tuple) -> None:
    """ceil(side / 42.67) for Stage C; a quarter of the side, with nothing to cut off at multiples of 128, for B."""
    frame = Frame.of(size, 42.67)
    assert (frame.latents, frame.drawn) == (latents, drawn)
    assert frame.stage_a == (drawn[0] // 4, drawn[1] // 4)


@given(SIDES, SIDES, COMPRESSIONS)
def test_every_picture_fits_into_its_frame(width: int, height: int, compression: float) -> None:
    frame = Frame.of((width, height), compression)
    for length, count, drawn in zip((height, width), frame.latents, frame.drawn, strict=True):
        assert (count - 1) * compression < length <= drawn
        assert drawn % 8 == 0
        assert abs(drawn - count * compression) <= 8
    pixels = torch.arange(frame.drawn[1]).expand(1, 1, *frame.drawn)
    cut = frame.cut(pixels)
    assert cut.shape == (1, 1, height, width)
    left, right = int(cut[0, 0, 0, 0]), frame.drawn[1] - 1 - int(cut[0, 0, 0, -1])
    assert right - left in (0, 1)  # the middle


@pytest.mark.parametrize(
    ("size", "compression"), [((64, 64), 32.0), ((70, 33), 32.0), ((100, 100), 42.67), ((1, 1), 32.0)]
)
def test_the_compressor_reads_32_pixels_per_latent(size: tuple[int, int], compression: float) -> None:
    frame = Frame.of(size, compression)
    picture = torch.full((1, 3, size[1], size[0]), 0.25)
    read = frame.fill(picture)
    assert read.shape == (1, 3, 32 * frame.latents[0], 32 * frame.latents[1])
    assert torch.allclose(read, torch.tensor(0.25))


def test_filling_and_cutting_are_inverse() -> None:
    picture = torch.rand(2, 3, 33, 70)
    frame = Frame.of((70, 33), 32.0)
    assert torch.equal(frame.cut(frame.fill(picture)), picture)


def test_latents_of_another_shape_are_stretched_over_the_picture() -> None:
    assert Frame.around((24, 24), None, 42.67) == Frame.of((1024, 1024), 42.67)
    assert Frame.around((24, 24), (1000, 1000), 42.67).drawn == (1024, 1024)
    assert Frame.around((32, 32), (1020, 1024), 42.67).drawn == (1024, 1024)


@pytest.mark.parametrize("name", ["tiny", "full"])
@given(st.data())
def test_all_sizes_from_a_quarter_to_twice_the_models_own_are_drawn(name: str, data: st.DataObject) -> None:
    side = PRESETS[name].drawing.image_size
    size = data.draw(st.tuples(*[st.integers(side // 32, side // 4).map(lambda n: 8 * n)] * 2))
    assert check_size(size, side, name) == size


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.sampled_from([64, 128, 1000, 1024]))
def test_the_nearest_size_is_one_that_can_be_drawn(width: int, height: int, side: int) -> None:
    nearest = nearest_size((width, height), side)
    assert nearest_size(nearest, side) == nearest
    if nearest != (width, height):
        with pytest.raises(InputError, match=rf"The nearest size is {nearest[0]}x{nearest[1]}\."):
            check_size((width, height), side, "m")


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ((0, 128), (32, 128)),
        ((7, 7), (32, 32)),
        ((64, 100000), (64, 512)),
        ((512, 512), (256, 256)),
        ((-5, 40), (32, 40)),
    ],
)
def test_what_is_out_of_reach_is_brought_near_by_the_least_change(asked: tuple, nearest: tuple) -> None:
    assert nearest_size(asked, 128) == nearest


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_the_networks_draw_the_smallest_size(preset: Preset) -> None:
    smallest = nearest_size((1, 1), preset.drawing.image_size)
    frame = Frame.of(smallest, preset.drawing.compression)
    with torch.device("meta"):
        assert min(frame.latents) >= StageC(preset.stage_c).smallest_side
        assert min(frame.stage_a) >= StageB(preset.stage_b).smallest_side


@given(st.integers(1, 9000), st.integers(1, 9000), st.sampled_from([128, 1024]))
def test_a_size_like_a_picture_has_its_shape_and_the_models_area(width: int, height: int, side: int) -> None:
    if max(width, height) > 8 * min(width, height):
        with pytest.raises(InputError, match=re.escape(f"{width}x{height} pixels is too long")):
            size_like((width, height), side)
        return
    size = size_like((width, height), side)
    assert check_size(size, side, "m") == size
    assert size[0] * size[1] == pytest.approx(side**2, rel=0.2)
    assert size[0] / size[1] == pytest.approx(width / height, rel=0.15)
