"""Pictures in a terminal: two pixels in a character cell, drawn with 24-bit colour and redrawn in place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, TextIO

import numpy as np
from PIL import Image

_WIDEST = 64  # columns
_UPPER_HALF = "▀"
_RESET = "\x1b[0m"


def shows_pictures(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether `stream` is a terminal that says it knows 24-bit colour, and the user has not switched colour off."""
    if not stream.isatty() or environment.get("NO_COLOR") or environment.get("TERM") == "dumb":
        return False
    true_colour = environment.get("COLORTERM", "").lower() in ("truecolor", "24bit") or "WT_SESSION" in environment
    return true_colour and (stream.encoding or "").lower().replace("-", "") == "utf8"


def half_blocks(image: Image.Image) -> str:
    """Lines of text that show an RGB picture: each cell's foreground is the upper pixel, its background the lower.

    An odd height leaves the last line's background alone. Every line ends by resetting the colours.
    """
    rows = np.asarray(image.convert("RGB")).tolist()
    no_row: list[Any] = [None] * image.width
    lines = zip_longest(rows[::2], rows[1::2], fillvalue=no_row)
    return "".join("".join(map(_cell, upper, lower)) + f"{_RESET}\n" for upper, lower in lines)


def fit(image: Image.Image, columns: int, lines: int) -> Image.Image:
    """`image` made small enough for a terminal of `columns` by `lines`, with room for a line of text; never larger."""
    widest = min(columns - 1, _WIDEST)
    highest = 2 * (lines - 2)
    scale = min(widest / image.width, highest / image.height, 1.0)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX)


class Screen:
    """A picture with a line under it, or the line alone, that each `show` draws over the one before."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines = 0

    def show(self, caption: str, image: Image.Image | None = None) -> None:
        """Draw `image`, scaled to the terminal, and `caption` (cut to one line) below it."""
        terminal = shutil.get_terminal_size()
        picture = "" if image is None else half_blocks(fit(image, terminal.columns, terminal.lines))
        self._stream.write(f"{self._back()}{picture}{caption[: terminal.columns - 1]}\n")
        self._stream.flush()
        self._lines = picture.count("\n") + 1

    def clear(self) -> None:
        """Erase what `show` drew and leave the cursor where it began."""
        self._stream.write(self._back())
        self._stream.flush()
        self._lines = 0

    def _back(self) -> str:
        """Up to the first line drawn, and erase from there."""
        return f"\x1b[{self._lines}A\r\x1b[J" if self._lines else ""


def _cell(upper: Sequence[int], lower: Sequence[int] | None) -> str:
    foreground = "\x1b[38;2;{};{};{}m".format(*upper)
    background = "\x1b[49m" if lower is None else "\x1b[48;2;{};{};{}m".format(*lower)
    return foreground + background + _UPPER_HALF
