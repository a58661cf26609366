"""Draws forty pictures of Rex, a made-up dog, as a phone's would be: `python examples/rex/draw.py FOLDER`.

They stand for the pictures of somebody's own dog in docs/first-lora.md: upright and across, near and far, in folders
that are named by where Rex is.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

SIDES = ((1200, 900), (900, 1200), (1000, 1000))
PLACES = {
    "on grass": ("#bfe3f7", "#7cb85a"),
    "on the beach": ("#8fc7ea", "#ecd9a8"),
    "on a blue sofa": ("#f2ead9", "#4f7fc4"),
    "on white": ("#ffffff", "#ffffff"),
}
"""The folders, and the colours behind Rex and below."""

FUR, WHITE, BLACK, COLLAR, TAG, TONGUE = "#c9803c", "#fff7ea", "#2b2624", "#d8232a", "#ffd23f", "#ef7f8c"


def draw(number: int, sky: str, ground: str) -> Image.Image:
    """Picture `number`: Rex sitting, or his face, looking left or right, a little turned."""
    chance = random.Random(number)
    width, height = SIDES[number % len(SIDES)]
    image = Image.new("RGB", (width * 2, height * 2), sky)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, height * chance.uniform(1.1, 1.4), width * 2, height * 2), fill=ground)
    size = round(min(width, height) * chance.uniform(1.9, 2.1))
    dog = (face if number % 3 == 2 else sitting)(size, chance)
    if chance.random() < 0.5:
        dog = dog.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    dog = dog.rotate(chance.uniform(-5, 5), Image.Resampling.BICUBIC)
    left = round(width - size / 2 + width * chance.uniform(-0.05, 0.05))
    image.paste(dog, (left, round(height - size / 2)), dog)
    return image.resize((width, height), Image.Resampling.LANCZOS)


class Pen:
    """Draws on a transparent square in units of its side."""

    def __init__(self, size: int) -> None:
        self.image = Image.new("RGBA", (size, size), (0, 0, 0, 0))
        self.pen, self.size = ImageDraw.Draw(self.image), size

    def oval(self, x: float, y: float, across: float, down: float, colour: str, turned: float = 0) -> None:
        """An ellipse by its middle and its half axes, turned against the clock by degrees."""
        side = round(2 * self.size * max(across, down)) + 2
        shape = Image.new("L", (side, side))
        half, a, b = side / 2, across * self.size, down * self.size
        ImageDraw.Draw(shape).ellipse((half - a, half - b, half + a, half + b), fill=255)
        shape = shape.rotate(turned, Image.Resampling.BICUBIC)
        place = (round(x * self.size - half), round(y * self.size - half))
        self.image.paste(Image.new("RGBA", shape.size, colour), place, shape)


def face(size: int, chance: random.Random) -> Image.Image:
    """Rex's face: one ear black and one brown, a white blaze, and a red collar with its tag."""
    pen = Pen(size)
    head(pen, 0.5, 0.45, 1.0, chance)
    return pen.image


def head(pen: Pen, x: float, y: float, scale: float, chance: random.Random) -> None:
    """The head, with the collar below."""

    def oval(dx: float, dy: float, across: float, down: float, colour: str, turned: float = 0) -> None:
        pen.oval(x + dx * scale, y + dy * scale, across * scale, down * scale, colour, turned)

    oval(0, 0.33, 0.22, 0.09, COLLAR)
    oval(0, 0.42, 0.06, 0.06, TAG)
    flap = chance.uniform(-8, 8)
    oval(0, 0, 0.31, 0.32, FUR)
    oval(-0.3, -0.02, 0.1, 0.25, BLACK, -14 + flap)
    oval(0.3, -0.02, 0.1, 0.25, "#8a5220", 14 + flap)
    oval(0, -0.08, 0.07, 0.24, WHITE)
    oval(0, 0.15, 0.19, 0.16, WHITE)
    if chance.random() < 0.6:
        oval(0, 0.26, 0.06, 0.1, TONGUE)
    oval(0, 0.07, 0.08, 0.055, BLACK)
    for side in (-1, 1):
        oval(side * 0.14, -0.08, 0.05, 0.06, BLACK)
        oval(side * 0.14 + 0.015, -0.1, 0.015, 0.018, WHITE)


def sitting(size: int, chance: random.Random) -> Image.Image:
    """The whole dog from the front, sitting."""
    pen = Pen(size)
    pen.oval(0.8, 0.72, 0.05, 0.17, FUR, chance.uniform(-60, -20))
    pen.oval(0.5, 0.72, 0.24, 0.25, FUR)
    for side in (-1, 1):
        pen.oval(0.5 + side * 0.2, 0.9, 0.12, 0.07, FUR)
        pen.oval(0.5 + side * 0.1, 0.8, 0.055, 0.17, WHITE)
    pen.oval(0.5, 0.68, 0.12, 0.16, WHITE)
    head(pen, 0.5 + chance.uniform(-0.03, 0.03), 0.3, 0.75, chance)
    return pen.image


def main() -> None:
    """Write the pictures into folders of places."""
    folder = Path(sys.argv[1])
    for number in range(40):
        place = list(PLACES)[number % len(PLACES)]
        path = folder / place / f"IMG_{number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(number, *PLACES[place]).save(path, quality=90)


if __name__ == "__main__":
    main()
