"""The recipe that every drawn picture carries: what it takes to draw it again, as JSON in a PNG text chunk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from littlecascade.errors import InputError

KEY = "littlecascade"
"""Keyword of the PNG's iTXt chunk."""

Recipe = dict[str, Any]


def save_png(image: Image.Image, path: Path, recipe: Mapping[str, Any]) -> None:
    """Write `image` as a PNG that carries `recipe` (whatever JSON can hold; no NaN).

    The file appears whole or not at all: it is written under a temporary name beside `path`, then renamed, and
    replaces a file of that name.
    """
    info = PngInfo()
    info.add_itxt(KEY, json.dumps(recipe, ensure_ascii=False, allow_nan=False))
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        image.save(part, format="PNG", pnginfo=info)
        part.replace(path)
    except OSError as error:
        error.add_note(f"'{path}' could not be written")
        raise
    finally:
        part.unlink(missing_ok=True)


def read_recipe(path: Path) -> Recipe:
    """The recipe of a picture that `save_png` wrote.

    Raises `InputError` if `path` is missing, is no PNG, or carries no recipe or a broken one.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            text = image.info.get(KEY)
    except FileNotFoundError:
        raise InputError(f"there is no picture '{path}' to take the recipe from.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"'{path}' is not a readable PNG, and only PNGs carry a recipe: {error}.") from None
    if text is None:
        raise InputError(
            f"'{path}' carries no recipe: littlecascade did not draw it, or another program saved it again since."
        )
    try:
        recipe = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"the recipe in '{path}' is broken: {error}.") from None
    if not isinstance(recipe, dict):
        raise InputError(f"the recipe in '{path}' is broken: it must be a JSON object.")
    return recipe
