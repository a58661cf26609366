"""Picture files to upright RGB pictures. Nothing here needs torch, so that worker processes start quickly."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from littlecascade.data.colour import in_srgb
from littlecascade.errors import InputError

_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # EXIF: which way the camera was held
ROOM = 1.9
"""A JPEG file is decoded at no less than this many times the wanted size: 46 dB from decoding all, in a quarter of the
time at 12 million pixels, whose four times smaller version this still lets through at a width of 512."""
_GAP = 2.0  # what Pillow may shrink to by plain averages before it filters, in sizes of the result


def to_rgb(image: Image.Image, background: str = "white") -> Image.Image:
    """An upright picture in sRGB: EXIF rotation applied, transparency laid over `background`, 16 bits scaled to 8.

    A picture that is all this already is given back itself.
    """
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("its values are floating point numbers; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image, dtype=np.float64)
        image = Image.fromarray((values / 257).clip(0, 255).round().astype(np.uint8))
    image = in_srgb(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        backdrop = Image.new("RGBA", image.size, background)
        image = Image.alpha_composite(backdrop, image)
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


def open_picture(path: str | Path, background: str = "white") -> Image.Image:
    """The first frame of a picture file, as `to_rgb` gives it. Raises `InputError` if it can't be read."""
    if Path(path).is_dir():
        raise InputError(f"{str(path)!r} is a folder: name the pictures in it.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of them becomes an error
            with Image.open(path) as image:
                return to_rgb(image, background)
    except FileNotFoundError:
        raise InputError(f"There is no picture {str(path)!r}.") from None
    except UnidentifiedImageError:
        raise InputError(f"{str(path)!r} is not a picture, or of a kind that can't be read here.") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise InputError(f"{str(path)!r} has more than {limit} million pixels: make it smaller first.") from None
    except Exception as error:  # a broken file makes Pillow's decoders raise almost anything
        raise InputError(f"{str(path)!r} can't be read as a picture: {error}.") from None


def upright_size(opened: Image.Image) -> tuple[int, int]:
    """Width and height of a picture, as `Image.open` gives it, once it is upright."""
    width, height = opened.size
    return (height, width) if opened.getexif().get(_ORIENTATION) in _TURNED else (width, height)


def shrink_while_decoding(opened: Image.Image, scale: float, room: float = ROOM) -> None:
    """Have a JPEG file that is not yet decoded made smaller meanwhile, if it is to be resized by `scale` afterwards.

    It becomes no smaller than `room` times of what is wanted.
    """
    opened.draft(None, (int(opened.width * scale * room), int(opened.height * scale * room)))


def cut(
    image: Image.Image,
    original: tuple[int, int],
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> Image.Image:
    """A part of an upright picture, brought to `size`.

    image: the picture at any scale. box: left, top, right and bottom of the part, in pixels of the `original` size.
    """
    if image.size == size and box == (0, 0, *original):
        return image
    across, down = image.width / original[0], image.height / original[1]
    right, bottom = min(box[2] * across, image.width), min(box[3] * down, image.height)
    return image.resize(size, resample, box=(box[0] * across, box[1] * down, right, bottom), reducing_gap=_GAP)


def cover(image: Image.Image, width: int, height: int) -> Image.Image:
    """Resize so that the picture covers width x height, and cut the middle out."""
    return image if image.size == (width, height) else ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
