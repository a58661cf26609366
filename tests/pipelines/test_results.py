from __future__ import annotations

import pytest
from PIL import Image

from littlecascade import Cascade, InputError
from littlecascade.pipelines.results import sheet


def colours(*names: str) -> list[Image.Image]:
    return [Image.new("RGB", (4, 2), name) for name in names]


def test_a_grid_goes_row_by_row() -> None:
    grid = sheet(colours("red", "lime", "blue"), columns=2, gap=1)
    assert grid.size == (9, 5)
    assert [grid.getpixel(at) for at in ((0, 0), (5, 0), (0, 3), (5, 3), (4, 0))] == [
        *((255, 0, 0), (0, 255, 0), (0, 0, 255)),
        *((255, 255, 255), (255, 255, 255)),
    ]


@pytest.mark.parametrize(("count", "size"), [(1, (4, 2)), (2, (8, 2)), (4, (8, 4)), (5, (12, 4)), (9, (12, 6))])
def test_a_grid_is_about_square(count: int, size: tuple[int, int]) -> None:
    assert sheet(colours(*["red"] * count)).size == size


def test_pictures_of_several_sizes_lie_in_the_middle_of_their_cells() -> None:
    grid = sheet([Image.new("RGB", (5, 5), "red"), Image.new("RGB", (1, 1), "blue")])
    assert grid.size == (10, 5)
    assert grid.getpixel((7, 2)) == (0, 0, 255)
    assert grid.getpixel((6, 2)) == (255, 255, 255)


def test_nothing_has_no_sheet() -> None:
    with pytest.raises(InputError, match="no picture"):
        sheet([])


def test_the_grid_of_a_result(cascade: Cascade) -> None:
    result = cascade.generate("pizza", n=3, seed=0)
    assert result.grid().size == (128, 128)
    assert result.grid(columns=3, gap=8).size == (3 * 64 + 16, 64)
    assert result.grid(columns=3).crop((64, 0, 128, 64)).tobytes() == result.images[1].tobytes()
