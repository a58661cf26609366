"""Decoding pictures, and a cache of decoded ones for data sets small enough to keep."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from littlecascade.data.sources import Sample
from littlecascade.errors import InputError

FORMAT = 1  # part of the cache's key: raise it when decoding changes


def to_rgb(image: Image.Image, background: str = "white") -> Image.Image:
    """An upright RGB picture: EXIF rotation applied, transparency laid over `background`, 16 bits scaled to 8."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        values = np.asarray(image, dtype=np.float64)
        image = Image.fromarray((values / 257).clip(0, 255).round().astype(np.uint8))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
        image = image.convert("RGBA")
        backdrop = Image.new("RGBA", image.size, background)
        image = Image.alpha_composite(backdrop, image)
    return image.convert("RGB")


def open_picture(path: str | Path) -> Image.Image:
    """A picture file as `to_rgb` gives it. Raises `InputError` if it can't be read."""
    try:
        with Image.open(path) as image:
            return to_rgb(image)
    except FileNotFoundError:
        raise InputError(f"There is no picture {str(path)!r}.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{str(path)!r} can't be read as a picture: {error}.") from None


def cover(image: Image.Image, width: int, height: int) -> Image.Image:
    """Resize so that the picture covers width x height, and cut the middle out."""
    return image if image.size == (width, height) else ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB picture as (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()).float() / 255


def to_image(pixels: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] as an RGB picture; values outside are clipped."""
    values = (pixels.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())


def decode(sample: Sample, size: int) -> np.ndarray[Any, Any]:
    """The sample's picture as (3, size, size) uint8. Raises `InputError` if it can't be decoded."""
    try:
        with Image.open(io.BytesIO(sample.picture.read())) as image:
            return np.asarray(cover(to_rgb(image), size, size)).transpose(2, 0, 1)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{sample.name} can't be decoded: {error}") from None


@dataclass(frozen=True)
class PixelCache:
    """Decoded pictures on disk. `pixels` is a memory map of (N, 3, S, S) uint8; `captions` and `fields` go with it.

    `broken` names what could not be decoded and why; those samples are not among the N.
    """

    key: str
    folder: Path
    pixels: np.ndarray[Any, Any]
    captions: list[list[str]]
    fields: list[dict[str, Any]]
    broken: list[str]

    def __len__(self) -> int:
        return len(self.captions)

    def batch(self, indices: Sequence[int]) -> Tensor:
        """(len(indices), 3, S, S) in [0, 1]."""
        return torch.from_numpy(self.pixels[list(indices)]).float() / 255


def pixel_cache(samples: Sequence[Sample], size: int, root: Path) -> PixelCache:
    """Decode `samples` at size x size into a folder below `root`, or open the one that is there already.

    The folder is named by a hash of what was read (file, offset, length, time of change) and of the size.
    """
    digest = hashlib.sha256(f"{FORMAT} {size}".encode())
    stamps = {file: file.stat().st_mtime_ns for file in {sample.picture.file for sample in samples}}
    for sample in samples:
        digest.update(f"{sample.name} {sample.picture} {stamps[sample.picture.file]}".encode())
    key = digest.hexdigest()[:16]
    folder = root / f"pixels-{size}-{key}"
    if not (folder / "samples.json").is_file():
        _fill(folder, samples, size)
    table = json.loads((folder / "samples.json").read_text("utf-8"))
    pixels = np.load(folder / "pixels.npy", mmap_mode="r")
    return PixelCache(key, folder, pixels, table["captions"], table["fields"], table["broken"])


def _fill(folder: Path, samples: Sequence[Sample], size: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "pixels.partial.npy"
    pixels = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=(len(samples), 3, size, size))
    table: dict[str, list[Any]] = {"captions": [], "fields": [], "broken": []}

    def attempt(sample: Sample) -> np.ndarray[Any, Any] | InputError:
        try:
            return decode(sample, size)
        except InputError as error:
            return error

    kept = 0
    with ThreadPoolExecutor() as pool:
        results = pool.map(attempt, samples)
        for sample, result in tqdm(zip(samples, results), total=len(samples), desc="decoding", disable=None):
            if isinstance(result, InputError):
                table["broken"].append(str(result))
                continue
            pixels[kept] = result
            table["captions"].append(sample.captions())
            table["fields"].append(sample.metadata())
            kept += 1
    if kept == 0:
        raise InputError(f"None of the {len(samples)} pictures could be decoded; the first: {table['broken'][0]}")
    pixels.flush()
    del pixels
    os.replace(temporary, folder / "pixels.npy")
    listing = folder / "samples.partial.json"
    listing.write_text(json.dumps(table), "utf-8")
    os.replace(listing, folder / "samples.json")
