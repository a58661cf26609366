"""A labelled plot of prompts x seeds x settings: its axes, which pictures it takes, and what it looks like."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from typing import TYPE_CHECKING, Any, NamedTuple

from littlecascade.errors import InputError, suggest

if TYPE_CHECKING:
    from PIL import Image, ImageFont

_LARGEST = 8192  # pixels along a side, to which larger plots are scaled down
_PAPER, _INK, _EMPTY = "white", "black", "gainsboro"


class Axis(NamedTuple):
    """A keyword argument of the drawing verbs, the values that it takes, and how each is written."""

    name: str
    values: Sequence[Any]
    texts: Sequence[str]

    @property
    def title(self) -> str:
        """Its name in words."""
        return self.name.replace("decoder_", "Stage B ").replace("_", " ")


class Call(NamedTuple):
    """Pictures that are drawn at once: the verb's arguments, and the place of each picture."""

    arguments: dict[str, Any]
    places: Sequence[int]


def parse_axis(text: str, parsers: Mapping[str, Callable[[str], Any]]) -> Axis:
    """`KEY=V1,V2`, each value read by the parser of that key.

    >>> parse_axis("decoder-steps=5,10", {"decoder_steps": int})
    Axis(name='decoder_steps', values=[5, 10], texts=['5', '10'])
    """
    key, separator, listed = text.partition("=")
    name = key.strip().replace("-", "_")
    if not separator:
        raise ArgumentTypeError(f"{text!r} is not KEY=VALUE,VALUE, such as steps=5,10,20")
    if name not in parsers:
        known = [name.replace("_", "-") for name in parsers]
        raise ArgumentTypeError(f"unknown key {key!r}.{suggest(key, known)} The keys are {', '.join(known)}")
    texts = [part.strip() for part in listed.split(",")]
    try:
        return Axis(name, [parsers[name](part) for part in texts], texts)
    except (ArgumentTypeError, InputError, ValueError) as error:
        raise ArgumentTypeError(f"{key}: {error}") from None


@dataclass(frozen=True)
class Plot:
    """Every combination of the values of some axes: the first axis runs across, the others down, the last fastest."""

    across: Axis
    down: Sequence[Axis]

    @classmethod
    def of(cls, prompts: Sequence[str], seeds: Sequence[int], grid: Sequence[Axis]) -> Plot:
        """The first axis of `grid` runs across, prompts, seeds and the other axes run down."""
        axes = {"prompt": Axis("prompt", prompts, prompts), "seed": Axis("seed", seeds, [str(seed) for seed in seeds])}
        axes |= {axis.name: axis for axis in grid}
        across = axes.pop(grid[0].name)
        return cls(across, list(axes.values()))

    def __len__(self) -> int:
        return len(list(self._cells()))

    def calls(self) -> Iterator[Call]:
        """What has to be drawn; pictures that differ by their seed alone are drawn at once. A place counts cells as
        one reads them."""
        alike: dict[tuple[tuple[str, Any], ...], list[tuple[int, int]]] = {}
        axes = (*self.down, self.across)
        for place, cell in enumerate(self._cells()):
            arguments = {axis.name: axis.values[index] for axis, index in zip(axes, cell, strict=True)}
            seed = arguments.pop("seed")
            alike.setdefault(tuple(arguments.items()), []).append((seed, place))
        for arguments, group in alike.items():
            for _, run in groupby(enumerate(group), key=lambda item: item[1][0] - item[0]):  # consecutive seeds
                seeds, places = zip(*(pair for _, pair in run), strict=True)
                yield Call(dict(arguments) | {"seed": seeds[0], "n": len(seeds)}, places)

    def draw(self, pictures: Mapping[int, Image.Image]) -> Image.Image:
        """The plot; places without a picture stay grey."""
        return _Sheet(self, pictures).draw()

    @property
    def title(self) -> str:
        """What all pictures share."""
        return ", ".join(_label(axis, 0) for axis in (*self.down, self.across) if len(axis.values) == 1)

    @property
    def rows(self) -> list[list[str]]:
        """The lines that stand beside each row: what the row has of every axis that varies."""
        varying = [axis for axis in self.down if len(axis.values) > 1]
        cells = product(*(range(len(axis.values)) for axis in varying))
        return [[_label(axis, index) for axis, index in zip(varying, cell, strict=True)] for cell in cells]

    def _cells(self) -> Iterator[tuple[int, ...]]:
        return product(*(range(len(axis.values)) for axis in (*self.down, self.across)))


def _label(axis: Axis, index: int) -> str:
    text = axis.texts[index]
    if axis.name == "prompt":
        return text or "no prompt"
    return f"{axis.title} {text or 'none'}"


class _Sheet:
    """The measures of one plot."""

    def __init__(self, plot: Plot, pictures: Mapping[int, Image.Image]) -> None:
        from PIL import ImageFont

        self.plot, self.pictures = plot, pictures
        self.columns, self.rows = len(plot.across.values), plot.rows
        width, height = (max(picture.size[side] for picture in pictures.values()) for side in (0, 1))
        self.scale = min(1, _LARGEST / (self.columns * width), _LARGEST / (len(self.rows) * height))
        self.cell = round(width * self.scale), round(height * self.scale)
        self.text = max(14, min(self.cell) // 20)
        self.font: ImageFont.FreeTypeFont | ImageFont.ImageFont = ImageFont.load_default(self.text)
        self.gap = self.text // 3
        self.labels = [[part for line in row for part in self._wrap(line, 1.5 * self.cell[0])] for row in self.rows]
        self.left = max(
            (round(self.font.getlength(line)) + self.text for row in self.labels for line in row), default=0
        )
        self.width = self.left + 2 * self.text + self.columns * (self.cell[0] + self.gap) - self.gap
        self.heads = [self._wrap(text, self.cell[0]) for text in plot.across.texts]
        self.title = self._wrap(plot.title, self.width - 2 * self.text)

    def draw(self) -> Image.Image:
        from PIL import Image, ImageDraw

        line = round(self.text * 1.3)
        top = self.text + len(self.title) * line
        head = top + (self.text if self.title else 0)
        first = head + (1 + max(len(lines) for lines in self.heads)) * line + self.gap
        height = first + len(self.rows) * (self.cell[1] + self.gap) + self.text
        canvas = Image.new("RGB", (self.width, height), _PAPER)
        pen = ImageDraw.Draw(canvas)

        def write(x: float, y: float, lines: Sequence[str], anchor: str) -> None:
            for number, words in enumerate(lines):
                pen.text((x, y + number * line), words, _INK, self.font, anchor)

        write(self.text, self.text, self.title, "la")
        write((self.left + self.width) / 2, head, [self.plot.across.title], "ma")
        for column, lines in enumerate(self.heads):
            write(self._x(column) + self.cell[0] / 2, head + line, lines, "ma")
        for row, lines in enumerate(self.labels):
            y = first + row * (self.cell[1] + self.gap)
            write(self.text, y + (self.cell[1] - len(lines) * line) / 2, lines, "la")
            for column in range(self.columns):
                self._paste(canvas, self.pictures.get(row * self.columns + column), self._x(column), y)
        return canvas

    def _x(self, column: int) -> int:
        return self.left + self.text + column * (self.cell[0] + self.gap)

    def _paste(self, canvas: Image.Image, picture: Image.Image | None, x: int, y: int) -> None:
        if picture is None:
            canvas.paste(_EMPTY, (x, y, x + self.cell[0], y + self.cell[1]))
            return
        if self.scale < 1:
            picture = picture.resize((round(picture.width * self.scale), round(picture.height * self.scale)))
        canvas.paste(picture, (x + (self.cell[0] - picture.width) // 2, y + (self.cell[1] - picture.height) // 2))

    def _wrap(self, text: str, width: float) -> list[str]:
        """Lines of whole words that are no wider, but for words that are."""
        lines: list[str] = []
        for word in text.split():
            longer = f"{lines[-1]} {word}" if lines else word
            if lines and self.font.getlength(longer) <= width:
                lines[-1] = longer
            else:
                lines.append(word)
        return lines
