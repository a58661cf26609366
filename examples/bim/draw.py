"""Draws Bim, a made-up little robot, twelve times: `python examples/bim/draw.py FOLDER`. Pictures to try a LoRA with.

No network has seen Bim. Each picture has a caption, in which [bim] stands for it.
"""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

SIZE, SCALE = 256, 4  # pixels of a side, and how many times larger it is drawn
BODY, SHADE, EYE, PUPIL, LAMP = "#1fb8a6", "#128376", "#ffffff", "#26323a", "#ff8a1e"
CAPTIONS = ("[bim]", "a drawing of [bim]", "[bim] on white", "an emoji of [bim]", "[bim] emoji", "a picture of [bim]")


def draw(number: int) -> Image.Image:
    """Picture `number` of Bim: as it looks from its own side, a little larger or smaller, turned and with one lamp."""
    chance = random.Random(number)
    image = Image.new("RGB", (SIZE * SCALE, SIZE * SCALE), "white")
    pen = ImageDraw.Draw(image)
    unit = SIZE * SCALE * chance.uniform(0.33, 0.38)
    middle = SIZE * SCALE / 2

    def oval(x: float, y: float, width: float, height: float, colour: str) -> None:
        left, top = middle + x * unit, middle + y * unit
        pen.ellipse((left - width * unit, top - height * unit, left + width * unit, top + height * unit), fill=colour)

    def box(x: float, y: float, width: float, height: float, colour: str) -> None:
        left, top = middle + x * unit, middle + y * unit
        corners = (left - width * unit, top - height * unit, left + width * unit, top + height * unit)
        pen.rounded_rectangle(corners, radius=min(width, height) * unit, fill=colour)

    box(0, -0.85, 0.05, 0.25, SHADE)
    oval(0, -1.1, 0.16, 0.16, LAMP)
    for side in (-1, 1):
        box(side * 0.98, 0.1 + chance.uniform(-0.15, 0.15), 0.12, 0.32, SHADE)
        box(side * 0.38, 0.92, 0.2, 0.16, SHADE)
    oval(0, 0.08, 0.88, 0.84, BODY)
    look = chance.uniform(0, 2 * math.pi)
    oval(0, -0.08, 0.44, 0.44, EYE)
    oval(0.14 * math.cos(look), -0.08 + 0.14 * math.sin(look), 0.22, 0.22, PUPIL)
    box(0, 0.58, 0.26, 0.05, PUPIL)
    turned = image.rotate(chance.uniform(-12, 12), Image.Resampling.BICUBIC, fillcolor="white")
    return turned.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def main() -> None:
    """Write the pictures and captions."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(12):
        draw(number).save(folder / f"{number:02}.png", optimize=True)
        (folder / f"{number:02}.txt").write_text(f"{CAPTIONS[number % len(CAPTIONS)]}\n", "utf-8")


if __name__ == "__main__":
    main()
