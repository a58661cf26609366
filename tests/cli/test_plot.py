from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from PIL import Image

from littlecascade.cli.plot import Axis, Plot

STEPS = Axis("steps", [5, 10, 20], ["5", "10", "20"])
GUIDANCE = Axis("decoder_guidance", [1.0, 4.0], ["1", "4"])


def colour(place: int) -> tuple[int, int, int]:
    return (40 + 20 * place, 250 - 15 * place, 120)


def centre(sheet: Image.Image, place: int) -> tuple[float, float]:
    """Row and column of the middle of a picture of one colour."""
    ys, xs = np.nonzero((np.asarray(sheet) == colour(place)).all(-1))
    assert len(ys) > 100
    return ys.mean(), xs.mean()


@pytest.mark.parametrize("seeds", [[3, 4, 5], [9, 3, 4], [1, 1]])
def test_calls_draw_each_combination_once_in_its_place(seeds: list[int]) -> None:
    plot = Plot.of(["cat", "dog"], [7], [STEPS, Axis("seed", seeds, [*map(str, seeds)]), GUIDANCE])
    drawn: dict[int, tuple] = {}
    for call in plot.calls():
        arguments = dict(call.arguments)
        prompt, first, n, steps, guidance = (
            arguments.pop(name) for name in ("prompt", "seed", "n", "steps", "decoder_guidance")
        )
        assert not arguments
        assert n == len(call.places)
        for number, place in enumerate(call.places):
            assert place not in drawn
            drawn[place] = (prompt, first + number, guidance, steps)
    expected = product(["cat", "dog"], seeds, GUIDANCE.values, STEPS.values)
    assert drawn == dict(enumerate(expected))
    assert len(plot) == len(drawn)


def test_consecutive_seeds_are_drawn_at_once() -> None:
    plot = Plot.of(["cat"], range(4, 8), [STEPS])
    assert [(call.arguments["seed"], call.arguments["n"]) for call in plot.calls()] == [(4, 4)] * 3
    apart = Plot.of(["cat"], [0], [Axis("seed", [1, 2, 8], ["1", "2", "8"])])
    assert [(call.arguments["seed"], call.places) for call in apart.calls()] == [(1, (0, 1)), (8, (2,))]


def test_labels_say_what_varies_and_the_title_what_does_not() -> None:
    plot = Plot.of(["a cat", ""], [3], [STEPS, GUIDANCE])
    assert plot.title == "seed 3"
    assert plot.rows == [
        ["a cat", "Stage B guidance 1"],
        ["a cat", "Stage B guidance 4"],
        ["no prompt", "Stage B guidance 1"],
        ["no prompt", "Stage B guidance 4"],
    ]
    assert Plot.of(["a cat"], [3], [STEPS]).title == "a cat, seed 3"
    assert Plot.of(["a cat"], [3], [STEPS]).rows == [[]]


def test_pictures_stand_in_rows_and_columns() -> None:
    plot = Plot.of(["a cat"], [3], [STEPS, GUIDANCE])
    sheet = plot.draw({place: Image.new("RGB", (32, 24), colour(place)) for place in range(6)})
    places = [[centre(sheet, 3 * row + column) for column in range(3)] for row in range(2)]
    for row in places:
        assert len({y for y, _ in row}) == 1
        assert [x for _, x in row] == sorted(x for _, x in row)
    for column in zip(*places, strict=True):
        assert len({x for _, x in column}) == 1
    assert places[0][0][0] + 24 <= places[1][0][0]


def test_what_is_missing_stays_grey_and_odd_sizes_are_centred() -> None:
    plot = Plot.of(["a cat"], [3], [STEPS])
    sheet = plot.draw({0: Image.new("RGB", (40, 20), colour(0)), 2: Image.new("RGB", (20, 40), colour(2))})
    grey = (np.asarray(sheet) == (220, 220, 220)).all(-1)
    grey[:, grey.sum(0) < 20], grey[grey.sum(1) < 20] = False, False  # the edges of letters
    assert grey.sum() == 40 * 40
    assert centre(sheet, 0)[0] == centre(sheet, 2)[0] == np.nonzero(grey)[0].mean()


def test_text_is_written_and_nothing_runs_out_of_the_sheet() -> None:
    long = "a very long prompt that goes on and on, with pneumonoultramicroscopicsilicovolcanoconiosis in it"
    plot = Plot.of([long, "a cat"], [3], [STEPS, GUIDANCE])
    sheet = plot.draw({place: Image.new("RGB", (64, 64), "white") for place in range(12)})
    ink = np.asarray(sheet.convert("L")) < 128
    assert ink.sum() > 500
    assert not (ink[:4].any())
    assert not (ink[-4:].any())
    assert not (ink[:, :4].any())
    assert not (ink[:, -4:].any())
    assert sheet.width < 1200


def test_large_plots_are_scaled_down() -> None:
    axis = Axis("steps", list(range(1, 11)), [str(step) for step in range(1, 11)])
    picture = Image.new("RGB", (1024, 16), colour(0))
    sheet = Plot.of(["a cat"], [0], [axis]).draw(dict.fromkeys(range(10), picture))
    assert 8192 <= sheet.width < 8700
