from __future__ import annotations

import io

import pytest
from PIL import Image

from littlecascade.cli.preview import Screen, fit, half_blocks, shows_pictures
from littlecascade.cli.progress import Progress

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 128, 0), (0, 0, 255), (9, 10, 11)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def picture(*rows: list[tuple[int, int, int]]) -> Image.Image:
    image = Image.new("RGB", (len(rows[0]), len(rows)))
    image.putdata([pixel for row in rows for pixel in row])
    return image


def test_two_by_two_pixels_are_two_cells() -> None:
    assert half_blocks(picture([RED, GREEN], [BLUE, GREY])).encode() == (
        b"\x1b[38;2;255;0;0m\x1b[48;2;0;0;255m\xe2\x96\x80"  # red over blue
        b"\x1b[38;2;0;128;0m\x1b[48;2;9;10;11m\xe2\x96\x80"  # green over grey
        b"\x1b[0m\n"
    )


def test_an_odd_last_row_keeps_the_terminals_background() -> None:
    assert half_blocks(picture([RED])) == "\x1b[38;2;255;0;0m\x1b[49m▀\x1b[0m\n"


@pytest.mark.parametrize(
    ("size", "terminal", "fitted"),
    [
        ((128, 128), (80, 24), (44, 44)),  # 22 lines of two pixels
        ((128, 64), (40, 50), (39, 20)),
        ((128, 128), (200, 100), (64, 64)),
        ((20, 10), (80, 24), (20, 10)),
        ((128, 128), (1, 1), (1, 1)),
    ],
)
def test_pictures_are_made_to_fit(size, terminal, fitted) -> None:
    assert fit(Image.new("RGB", size), *terminal).size == fitted


def test_the_next_picture_is_drawn_over_the_last() -> None:
    stream = Terminal()
    screen = Screen(stream)
    screen.show("one", picture([RED], [BLUE]))
    screen.show("two")
    screen.clear()
    first = "\x1b[38;2;255;0;0m\x1b[48;2;0;0;255m▀\x1b[0m\none\n"
    assert stream.getvalue() == f"{first}\x1b[2A\r\x1b[Jtwo\n\x1b[1A\r\x1b[J"


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({"COLORTERM": "truecolor"}, True),
        ({"COLORTERM": "24bit"}, True),
        ({"WT_SESSION": "1"}, True),
        ({"COLORTERM": "truecolor", "NO_COLOR": "1"}, False),
        ({"COLORTERM": "truecolor", "TERM": "dumb"}, False),
        ({"TERM": "xterm-256color"}, False),
    ],
)
def test_pictures_need_a_terminal_with_all_colours(environment, shown) -> None:
    assert shows_pictures(Terminal(), environment) is shown
    assert not shows_pictures(io.StringIO(), environment)


def test_progress_is_a_bar_where_colours_are_missing(monkeypatch) -> None:
    monkeypatch.delenv("COLORTERM", raising=False)
    monkeypatch.delenv("WT_SESSION", raising=False)
    stream = Terminal()
    with Progress(stream) as progress:
        progress("c", 2, 8, lambda: picture([RED], [BLUE]))
    assert stream.getvalue() == "Stage C ######.................. 2/8\n\x1b[1A\r\x1b[J"


def test_progress_shows_the_picture_unless_told_not_to(monkeypatch) -> None:
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown, hidden = Terminal(), Terminal()
    for progress in (Progress(shown), Progress(hidden, pictures=False)):
        progress("c", 8, 8, lambda: picture([RED], [BLUE]))
        progress("b", 1, 8, lambda: picture([RED], [BLUE]))
    assert shown.getvalue().count("▀") == 2
    assert "▀" not in hidden.getvalue()


def test_progress_is_silent_elsewhere() -> None:
    stream = io.StringIO()
    with Progress(stream) as progress:
        progress("c", 1, 8, picture([RED], [BLUE]))
    assert stream.getvalue() == ""
