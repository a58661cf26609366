"""Draws the README's pictures: the contact sheet, the reconstructions and the curves of training.

    python recipes/emoji/sheets.py [--model tiny] [--runs runs/emoji] [--out docs/images]

Nothing is picked: the prompts stand below, picture k of the contact sheet has seed k, and the reconstructed pictures
are evenly spaced in the data.
"""

from __future__ import annotations

import argparse
import html
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from littlecascade import Cascade
from littlecascade.data.sources import find_samples
from littlecascade.errors import InputError
from littlecascade.training.report import HEIGHT, WIDTH, curve
from littlecascade.training.runstate import RunFolder

PROMPTS = """
red apple, pizza, strawberry, avocado, birthday cake, cheese wedge, burger, pink pizza
cat face, octopus, penguin, butterfly, lion, tropical fish, tortoise, blue fox
grinning face, crying face, angry face, smiling face with sunglasses, robot, alien, ghost, pumpkin
guitar, umbrella, light bulb, camera, crown, piano, sofa, green drum
rocket, sailboat, house, snowman, motorbike, ufo, red airplane, blue locomotive
blue heart, musical note, recycling symbol, warning, flag: japan, rainbow, sunflower, purple evergreen tree
"""
"""Food, animals, faces, objects, travel, symbols and nature. No caption has: burger, tortoise, pumpkin, piano, sofa,
motorbike, ufo (words), pink pizza, blue fox, green drum, red airplane, blue locomotive, purple evergreen tree (pairs).
"""

SEED = 0
COLUMNS = 8
RECONSTRUCTIONS = 12
GAP, LABEL_HEIGHT, FONT_SIZE, LABEL_LETTERS = 10, 34, 13, 19
LARGEST = 600_000  # bytes of a PNG
CURVES = {
    "compressor": "psnr",
    "stage_a": "psnr",
    "text": "cosine",
    "image": "cosine",
    "stage_b": "loss",
    "stage_c": "loss",
}
"""The figure of each run's metrics that is drawn."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws all three and prints their paths and sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny", help="a shipped model or a folder (default tiny)")
    parser.add_argument("--runs", type=Path, default=Path("runs/emoji"), help="folder of the runs and of data/")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder for the pictures")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    cascade = Cascade.load(options.model)
    drawn = {
        "contact-sheet.png": small_png(contact_sheet(cascade)),
        "reconstructions.png": small_png(reconstruction_sheet(cascade, options.runs / "data")),
        "training.svg": curves(options.runs).encode(),
    }
    for name, data in drawn.items():
        (options.out / name).write_bytes(data)
        print(f"{options.out / name}  {len(data) / 1000:.0f} kB")
    return 0


def prompts() -> list[str]:
    """The contact sheet's prompts, row by row."""
    return [prompt.strip() for line in PROMPTS.split("\n") for prompt in line.split(",") if prompt.strip()]


def contact_sheet(cascade: Cascade) -> Image.Image:
    """A picture for each prompt, with the prompt below it."""
    texts = prompts()
    return lay_out(cascade.generate(texts, seed=SEED).images, texts, COLUMNS)


def reconstruction_sheet(cascade: Cascade, data: Path) -> Image.Image:
    """Pictures above what compressor, Stage B and Stage A make of them; the right half was never trained on."""
    half = RECONSTRUCTIONS // 2
    originals: list[Image.Image] = []
    for shards in ("train-*.tar", "heldout-*.tar"):
        samples = find_samples(str(data / shards))
        chosen = [samples[number * len(samples) // half] for number in range(half)]
        originals += [Image.open(io.BytesIO(sample.picture.read())).convert("RGB") for sample in chosen]
    size = (cascade.drawing.image_size,) * 2
    originals = [image.resize(size, Image.Resampling.LANCZOS) for image in originals]
    drawn = cascade.decode(cascade.encode(originals).latents, size=size, seed=SEED)
    return lay_out([*originals, *drawn.images], None, RECONSTRUCTIONS)


def lay_out(images: Sequence[Image.Image], labels: Sequence[str] | None, columns: int) -> Image.Image:
    """Pictures of one size in rows on white, each above its label."""
    width, height = images[0].size
    step_x, step_y = width + GAP, height + GAP + (LABEL_HEIGHT if labels else 0)
    sheet = Image.new("RGB", (columns * step_x + GAP, -(-len(images) // columns) * step_y + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for number, image in enumerate(images):
        left, top = GAP + number % columns * step_x, GAP + number // columns * step_y
        sheet.paste(image, (left, top))
        if labels:
            text = "\n".join(textwrap.wrap(labels[number], LABEL_LETTERS))
            pen.multiline_text((left + width / 2, top + height + 2), text, "#333", font, "ma", 1, "center")
    return sheet


def small_png(image: Image.Image) -> bytes:
    """The picture as a PNG with a palette, of as many colours as fit into `LARGEST` bytes, but at least 32."""
    data = b""
    for colours in (256, 128, 64, 32):
        buffer = io.BytesIO()
        palette = image.quantize(colours)
        image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(buffer, "PNG", optimize=True)
        data = buffer.getvalue()
        if len(data) <= LARGEST:
            break
    return data


def curves(runs: Path) -> str:
    """The course of every run that has metrics as one SVG, two beside each other. Raises `InputError` without any."""
    columns, title = 2, 22
    panels: list[str] = []
    for run, name in CURVES.items():
        rows = RunFolder(runs / run).metrics()
        if drawn := curve(rows, name):
            left, top = len(panels) % columns * (WIDTH + 30), len(panels) // columns * (HEIGHT + title + 10)
            caption = f'<text x="0" y="14" class="title">{html.escape(run)}: {name}</text>'
            panels.append(
                f'<g transform="translate({left + 10} {top + 8})">{caption}'
                f'<g transform="translate(0 {title})">{drawn}</g></g>'
            )
    if not panels:
        raise InputError(f"No run below {runs} has metrics: looked for {', '.join(CURVES)}.")
    width, height = columns * (WIDTH + 30), -(-len(panels) // columns) * (HEIGHT + title + 10) + 16
    style = "text{font:11px system-ui,sans-serif;fill:#555}.title{font-size:14px;font-weight:600;fill:#222}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(panels)}</svg>\n'
    )


if __name__ == "__main__":
    raise SystemExit(main())
