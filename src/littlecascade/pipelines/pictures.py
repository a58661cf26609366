"""The pictures that a drawing starts from, told apart by what they show."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageColor, ImageOps

from littlecascade.data.pictures import open_picture, to_rgb
from littlecascade.errors import InputError
from littlecascade.pipelines.size import LONGEST

Picture = Image.Image | str | os.PathLike[str]
"""A picture, or the path of one."""


class Source(NamedTuple):
    """An upright RGB picture, the path that it was read from, and a digest of its pixels."""

    image: Image.Image
    path: str | None
    digest: str

    @property
    def recipe(self) -> dict[str, Any]:
        """How a recipe names it."""
        return {"path": self.path, "digest": self.digest}


def as_list(pictures: Picture | Sequence[Picture]) -> list[Picture]:
    """One picture or several as several. Raises `InputError` for none."""
    if isinstance(pictures, Image.Image | str | os.PathLike):
        return [pictures]
    if not pictures:
        raise InputError("There is no picture to work from: give one, or the path of one.")
    return list(pictures)


def open_sources(pictures: Picture | Sequence[Picture], background: str = "white") -> list[Source]:
    """Reads one picture or several, their transparent parts laid over the colour `background`.

    Raises `InputError` for none, or one that can't be read, and for a colour that is none.
    """
    try:
        ImageColor.getrgb(background)
    except ValueError:
        raise InputError(f"{background!r} is not a colour: give a name, such as 'white', or '#rrggbb'.") from None
    return [_open(picture, background) for picture in as_list(pictures)]


def middle(image: Image.Image) -> Image.Image:
    """A picture without its far ends if it is very long, so that bringing it to a square can't exhaust the memory."""
    width, height = image.size
    if max(width, height) <= LONGEST * min(width, height):
        return image
    return ImageOps.fit(image, (min(width, LONGEST * height), min(height, LONGEST * width)))


def _open(picture: Picture, background: str) -> Source:
    if isinstance(picture, Image.Image):
        image, path = to_rgb(picture, background), None
    else:
        image, path = open_picture(Path(picture), background), os.fspath(picture)
    digest = hashlib.sha256(f"{image.width}x{image.height} ".encode() + image.tobytes()).hexdigest()[:16]
    return Source(image, path, digest)
