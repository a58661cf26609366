"""Colour profiles: pictures whose numbers do not mean sRGB, such as phones' Display P3, are brought to it."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

_SPACES = {"RGB": b"RGB ", "RGBA": b"RGB ", "CMYK": b"CMYK", "L": b"GRAY"}
"""The colour space of the profile that a mode of Pillow can have, as the header of a profile has it."""
_SPACE = slice(16, 20)  # bytes of the header
_NEAR = 2  # levels by which sRGB profiles of several makers differ
_CORNERS = np.stack(np.meshgrid(*[np.linspace(0, 255, 6)] * 3), -1).reshape(1, -1, 3).astype(np.uint8)


def in_srgb(image: Image.Image) -> Image.Image:
    """The picture in sRGB: the same one, unless it holds a profile that means anything else.

    Transparency stays. A profile that is broken, or for pictures of another kind, is passed over.
    """
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    transform = _transform(profile, image.mode)
    if transform is None:
        return image
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # since it is not done in place
    del converted.info["icc_profile"]
    return converted


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """What brings pictures of a mode from a profile to sRGB, or None if they are to stay as they are."""
    try:
        if profile[_SPACE] != _SPACES.get(mode):
            return None
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        to = "RGBA" if mode == "RGBA" else "RGB"
        transform = ImageCms.buildTransform(own, ImageCms.createProfile("sRGB"), mode, to)
        return None if mode in ("RGB", "RGBA") and _changes_nothing(transform, mode) else transform
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    corners = Image.fromarray(_CORNERS)
    converted = ImageCms.applyTransform(corners.convert(mode), transform)
    assert converted is not None
    moved = np.abs(np.asarray(converted.convert("RGB"), int) - np.asarray(corners, int))
    return bool(moved.max() <= _NEAR)
