"""Recolours vector art in which one hue dominates: "pizza" becomes "blue pizza".

Colours are HSV with every part in [0, 1], as in `colorsys`.
"""

from __future__ import annotations

import colorsys
import hashlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from names import Emoji
from PIL import Image, ImageColor
from render import rasterise

Hsv = tuple[float, float, float]
Rgb = tuple[int, int, int]

COLOURS: dict[str, Hsv] = {
    "red": (0.0, 0.85, 0.88),
    "orange": (28 / 360, 0.88, 1.0),
    "yellow": (51 / 360, 0.80, 1.0),
    "green": (125 / 360, 0.70, 0.70),
    "blue": (214 / 360, 0.78, 0.92),
    "purple": (276 / 360, 0.65, 0.75),
    "pink": (330 / 360, 0.50, 1.0),
}
"""What each colour word looks like; a recoloured picture's mean colour moves there."""

COLOUR_WORDS = (*COLOURS, "brown", "black", "white")
GROUPS = frozenset({"animals-nature", "food-drink", "travel-places", "activities", "objects"})
SUBGROUPS_WITHOUT = frozenset({"award-medal", "place-map", "sky-weather", "time"})
"""Here a colour carries meaning (medals, maps, phases of the moon) or there is hardly any."""
NAMES_WITHOUT = frozenset({"leafy green", "rainbow", "drop of blood", "hot springs", "vertical traffic light"})

ANALYSIS_SIZE = 48
SPREAD = 50 / 360
NEUTRAL = 0.18
DOMINANT_SHARE = 0.72
COLOURFUL_SHARE = 0.45
HELD_OUT_ONE_IN = 10
BROWN_BELOW_VALUE = 0.72
PINK_BELOW_SATURATION = 0.5

_PAINT = re.compile(r'\b(fill|stroke|stop-color|flood-color)="(#[0-9a-fA-F]{3,8}|rgba?\([^)"]*\)|[a-z]+)"')


@dataclass(frozen=True)
class Dominant:
    """The hue that dominates a picture, with the mean saturation and value of the pixels that have it."""

    hue: float
    saturation: float
    value: float


def hue_distance(first: float, second: float) -> float:
    """The distance between two hues on their circle, in [0, 0.5].

    >>> round(hue_distance(0.95, 0.05), 6)
    0.1
    """
    gap = abs(first - second) % 1.0
    return min(gap, 1.0 - gap)


def dominant(art: Image.Image) -> Dominant | None:
    """The dominant hue of RGBA `art`, or None when too few pixels have a colour or when their hues differ."""
    data = art.tobytes()
    solid = [pixel for pixel in zip(data[::4], data[1::4], data[2::4], data[3::4], strict=True) if pixel[3] > 127]
    colours = [colorsys.rgb_to_hsv(r / 255, g / 255, b / 255) for r, g, b, _ in solid]
    colours = [colour for colour in colours if is_colourful(colour)]
    if len(colours) < COLOURFUL_SHARE * max(1, len(solid)):
        return None
    hue = mean_hue(colours)
    near = [colour for colour in colours if hue_distance(colour[0], hue) <= SPREAD]
    if len(near) < DOMINANT_SHARE * len(colours):
        return None
    return Dominant(mean_hue(near), sum(s for _, s, _ in near) / len(near), sum(v for _, _, v in near) / len(near))


def mean_hue(colours: Sequence[Hsv]) -> float:
    """The direction of the mean colour on the circle of hues, strong colours counting more; in [0, 1)."""
    east = sum(s * v * math.cos(2 * math.pi * h) for h, s, v in colours)
    north = sum(s * v * math.sin(2 * math.pi * h) for h, s, v in colours)
    return math.atan2(north, east) / (2 * math.pi) % 1.0


def is_colourful(colour: Hsv) -> bool:
    """Whether a colour has a hue to speak of; greys, near-blacks and near-whites have none."""
    _, saturation, value = colour
    return saturation > NEUTRAL and value > NEUTRAL


def own_colour(found: Dominant) -> str | None:
    """The colour word for what a picture already is, or None when no word of `COLOURS` fits (brown)."""
    word = min(COLOURS, key=lambda name: hue_distance(COLOURS[name][0], found.hue))
    if word in ("orange", "yellow") and found.value < BROWN_BELOW_VALUE:
        return None
    if word == "red" and found.saturation < PINK_BELOW_SATURATION:
        return "pink"
    return word


def shift(colour: Hsv, found: Dominant, target: Hsv) -> Hsv:
    """Moves a colour of the dominant family by the step that takes the dominant colour to `target`.

    Hue turns by the difference, saturation and value scale by the ratio; neutral colours and other hues stay.
    """
    hue, saturation, value = colour
    if not is_colourful(colour) or hue_distance(hue, found.hue) > SPREAD:
        return colour
    return (
        (hue + target[0] - found.hue) % 1.0,
        min(1.0, saturation * target[1] / found.saturation),
        min(1.0, value * target[2] / found.value),
    )


def variants(svg: str) -> Iterator[tuple[str, str]]:
    """The colour words that `svg` can honestly be given, each with the recoloured SVG; none when no hue dominates.

    Its own colour is left out, and so is every result that does not look like its word when drawn.
    """
    found = dominant(rasterise(svg, ANALYSIS_SIZE))
    if found is None:
        return
    own = own_colour(found)
    for word, target in COLOURS.items():
        changed = recolour(svg, found, target)
        if word != own and (result := dominant(rasterise(changed, ANALYSIS_SIZE))) and own_colour(result) == word:
            yield word, changed


def recolour(svg: str, found: Dominant, target: Hsv) -> str:
    """`svg` with `shift` applied to every fill, stroke and gradient stop; opacity stays."""
    return map_paint(svg, lambda colour: shift(colour, found, target))


def map_paint(svg: str, change: Callable[[Hsv], Hsv]) -> str:
    """`svg` with `change` applied to every colour of its fills, strokes and gradient stops; opacity stays."""

    def replace(match: re.Match[str]) -> str:
        attribute, text = match.groups()
        if text in ("none", "url", "inherit", "transparent"):
            return match.group()
        rgb, opacity = parse_colour(text)
        r, g, b = colorsys.hsv_to_rgb(*change(colorsys.rgb_to_hsv(*(part / 255 for part in rgb))))
        r, g, b = round(r * 255), round(g * 255), round(b * 255)
        painted = f"#{r:02x}{g:02x}{b:02x}" if opacity is None else f"rgba({r}, {g}, {b}, {opacity})"
        return f'{attribute}="{painted}"'

    return _PAINT.sub(replace, svg)


def parse_colour(text: str) -> tuple[Rgb, str | None]:
    """An SVG colour as RGB in 0..255 and its opacity as written (None when it has none).

    >>> parse_colour("#f00"), parse_colour("rgba(1, 2, 3, .5)")
    (((255, 0, 0), None), ((1, 2, 3), '.5'))
    """
    if text.startswith("rgb"):
        parts = [part.strip() for part in text[text.index("(") + 1 : -1].split(",")]
        r, g, b = (int(float(part)) for part in parts[:3])
        return (r, g, b), parts[3] if len(parts) > 3 else None
    r, g, b, *rest = ImageColor.getrgb(text)
    return (r, g, b), f"{rest[0] / 255:.3f}" if rest else None


def suits(emoji: Emoji) -> bool:
    """Whether "blue X" makes sense for the emoji: a thing, animal or plant whose colour is not its meaning."""
    return emoji.group in GROUPS and emoji.subgroup not in SUBGROUPS_WITHOUT and emoji.name not in NAMES_WITHOUT


def object_name(name: str) -> str:
    """The name without a colour word of its own.

    >>> object_name("red apple"), object_name("pizza")
    ('apple', 'pizza')
    """
    kept = [word for word in name.split() if word not in COLOUR_WORDS]
    return " ".join(kept)


def is_held_out(colour: str, thing: str) -> bool:
    """Whether the pair (colour, object name) is kept from training, in every style: a tenth, by a fixed hash."""
    digest = hashlib.sha256(f"{colour} {thing}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_ONE_IN == 0
