"""Decoding pictures, and a cache of decoded ones for data sets small enough to keep."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from littlecascade.data.pictures import cover, to_rgb
from littlecascade.data.pictures import open_picture as open_picture  # for those who import it from here
from littlecascade.data.sources import Sample
from littlecascade.errors import InputError

FORMAT = 1  # part of the cache's key: raise it when decoding changes
PIXELS, TABLE = "pixels.npy", "samples.json"
READ_AHEAD = 512  # pictures that may wait in memory to be written


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
    except Exception as error:  # a broken file makes Pillow's decoders raise almost anything
        raise InputError(f"{sample.name} can't be decoded: {error}") from None


@dataclass(frozen=True)
class PixelCache:
    """Decoded pictures on disk. `pixels` is a memory map of (N, 3, S, S) uint8; `captions` and `fields` go with it.

    `broken` names what could not be read and why; those samples are not among the N.
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

    The folder is named by a hash of what was read (file, offset, length, time of change) and of the size. It appears
    under its name when it is complete. Raises `InputError` if none of the pictures can be decoded.
    """
    key = _fingerprint(samples, size)
    folder = root / f"pixels-{size}-{key}"
    if not (folder / TABLE).is_file():
        _fill(folder, samples, size)
    table = json.loads((folder / TABLE).read_text("utf-8"))
    pixels = np.load(folder / PIXELS, mmap_mode="r")[: len(table["captions"])]
    return PixelCache(key, folder, pixels, table["captions"], table["fields"], table["broken"])


def _fingerprint(samples: Sequence[Sample], size: int) -> str:
    stamp = lru_cache(maxsize=None)(lambda file: file.stat().st_mtime_ns)
    digest = hashlib.sha256(f"{FORMAT} {size}".encode())
    for sample in samples:
        beside = [member for member in (sample.text, sample.fields) if member and member.file != sample.picture.file]
        members = (f"{member} {stamp(member.file)}" for member in (sample.picture, *beside))
        digest.update(" ".join([sample.name, *members]).encode())
    return digest.hexdigest()[:16]


def _fill(folder: Path, samples: Sequence[Sample], size: int) -> None:
    temporary = folder.with_name(f".{folder.name}-{os.getpid()}")
    temporary.mkdir(parents=True, exist_ok=True)
    try:
        table = _decode_all(samples, size, temporary / PIXELS)
        (temporary / TABLE).write_text(json.dumps(table), "utf-8")
        if not (folder / TABLE).is_file():  # another process may have been faster
            shutil.rmtree(folder, ignore_errors=True)
            temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _decode_all(samples: Sequence[Sample], size: int, path: Path) -> dict[str, list[Any]]:
    """Write what can be decoded to `path`, one row after another, and return the columns that go with it."""
    pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(samples), 3, size, size))
    table: dict[str, list[Any]] = {"captions": [], "fields": [], "broken": []}
    with ThreadPoolExecutor() as pool, tqdm(total=len(samples), desc="decoding", disable=None) as bar:
        for start in range(0, len(samples), READ_AHEAD):
            for result in pool.map(lambda sample: _attempt(sample, size), samples[start : start + READ_AHEAD]):
                bar.update()
                if isinstance(result, InputError):
                    table["broken"].append(str(result))
                    continue
                pixels[len(table["captions"])], captions, fields = result
                table["captions"].append(captions)
                table["fields"].append(fields)
    if not table["captions"]:
        raise InputError(f"None of the {len(samples)} pictures could be decoded; the first: {table['broken'][0]}")
    pixels.flush()
    return table


def _attempt(sample: Sample, size: int) -> tuple[np.ndarray[Any, Any], list[str], dict[str, Any]] | InputError:
    """The sample's picture, captions and fields, or why it has to be left out."""
    try:
        return decode(sample, size), sample.captions(), sample.metadata()
    except InputError as error:
        return error
