"""The samples of a source as they are kept: which of them can be used, how each is cut, and what captions it has."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image, UnidentifiedImageError

from littlecascade.data.batches import Box, BucketBatches, Tile
from littlecascade.data.buckets import Buckets, Size
from littlecascade.data.expressions import EvaluationError
from littlecascade.data.getters import CaptionGetter, Filter, first_failure
from littlecascade.data.order import derive_seed
from littlecascade.data.pictures import cut
from littlecascade.data.remote import RemoteFile
from littlecascade.data.sources import Sample
from littlecascade.data.stream import Address, Example, Skip
from littlecascade.errors import InputError

FORMAT = 1  # part of the key: raise it when decoding or cutting changes
PART = 512
"""Samples that are worked on, and kept, together."""
READ_AHEAD = 32  # pictures that are decoded at a time, and may wait in memory
_SIDECARS = ("txt", "json")


@dataclass(frozen=True)
class Row:
    """A sample that is kept. sample: its number in the source. captions: its alternatives.

    crop: what is seen of the upright picture of `original` size. size: width and height in pixels to which that was
    brought.
    """

    sample: int
    name: str
    size: Size
    captions: tuple[str, ...]
    fields: Mapping[str, Any]
    original: Size
    crop: Box

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `dataclasses.asdict` gave, once that has been JSON."""
        tuples = {key: tuple(values[key]) for key in ("size", "captions", "original", "crop")}
        return cls(**{**values, **tuples})


@dataclass(frozen=True)
class Source:
    """Samples, and what is to become of them. place: where they are, for messages.

    Each picture is resized to cover its bucket, and its middle is cut out. random_ratio: the share of pictures that
    goes to a bucket drawn from all of them, as in the official release; which one follows from `seed`.
    """

    place: str
    samples: Sequence[Sample]
    buckets: Buckets
    filters: tuple[Filter, ...] = ()
    caption: CaptionGetter = field(default_factory=CaptionGetter)
    random_ratio: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.caption.member not in _SIDECARS:
            raise InputError(
                f"captions_getter: captions in .{self.caption.member} members can only be read in a sweep; set "
                "cache: false, or take them from .txt or .json members."
            )

    @cached_property
    def settings(self) -> dict[str, str]:
        """What decides the rows, in words: if all of it is equal, so are the rows."""
        return {
            "format": str(FORMAT),
            "samples": _fingerprint(self.samples),
            "buckets": " ".join(f"{width}x{height}" for width, height in self.buckets.sizes),
            "bucketeer_random_ratio": f"{self.random_ratio} {self.seed if self.random_ratio else 0}",
            "dataset_filters": "; ".join(map(str, self.filters)),
            "captions_getter": str(self.caption),
        }

    @property
    def parts(self) -> int:
        """How many parts of `PART` samples there are."""
        return -(-len(self.samples) // PART)

    def part(self, number: int) -> range:
        """The numbers of the samples in a part."""
        return range(number * PART, min((number + 1) * PART, len(self.samples)))

    def cut(self, number: int) -> tuple[Row, Tile] | Skip:
        """The sample of this number with its picture, or why it is left out."""
        sample = self.samples[number]
        try:
            fields = sample.metadata()
            if failure := first_failure(self.filters, fields):
                return Skip(sample.name, failure, filtered=True)
            captions = self._captions(sample, fields)
            seed = derive_seed(self.seed, number)
            example = Example(sample.name, sample.picture.read(), "", fields, Address(0, 0, number), seed)
            tile = self._cutter.tile(example)
        except (InputError, EvaluationError, OSError) as error:
            return Skip(sample.name, str(error))
        return Row(number, sample.name, tile.size, captions, fields, tile.original, tile.crop), tile

    def cut_all(self, numbers: Sequence[int], pool: Executor) -> Iterator[tuple[Row, Tile] | Skip]:
        """`cut` of each number, in their order, several at a time."""
        ahead = iter(numbers)
        while group := list(islice(ahead, READ_AHEAD)):
            yield from pool.map(self.cut, group)

    def mask(self, row: Row) -> np.ndarray[Any, Any]:
        """(H, W) uint8, the mask of a row's picture, cut as that is; all 255 where it has none.

        Raises `InputError` for one that can't be read, or is of another shape than the picture.
        """
        image = self._mask(row)
        if image is None:
            return np.full((row.size[1], row.size[0]), 255, dtype=np.uint8)
        try:
            return np.asarray(cut(image.convert("L"), row.original, row.crop, row.size, Image.Resampling.BILINEAR))
        except Exception as error:  # a broken file makes Pillow's decoders raise almost anything
            raise InputError(f"the mask of {row.name} can't be decoded: {error}.") from None

    def check_masks(self, rows: Iterable[Row]) -> None:
        """Raise `InputError` for a mask that is none, or of another shape than its picture; none is decoded."""
        for row in rows:
            self._mask(row)

    def _mask(self, row: Row) -> Image.Image | None:
        """A row's mask, not yet decoded, if there is one."""
        mask = self.samples[row.sample].mask
        if mask is None:
            return None
        try:
            image = Image.open(io.BytesIO(mask.read()))
        except UnidentifiedImageError:
            raise InputError(f"the mask of {row.name} is no picture.") from None
        if abs(image.width * row.original[1] - image.height * row.original[0]) > max(*image.size, *row.original):
            shapes = f"{image.width} x {image.height}, and the picture {row.original[0]} x {row.original[1]}"
            raise InputError(f"the mask of {row.name} has another shape than the picture: {shapes}.")
        return image

    @cached_property
    def _cutter(self) -> BucketBatches:
        return BucketBatches(self.buckets, 1, self.random_ratio, random_crop=False)

    def _captions(self, sample: Sample, fields: Mapping[str, Any]) -> tuple[str, ...]:
        getter = self.caption
        if getter.member == "json":
            return (getter(fields, random.Random(0)),)
        if sample.text is None:
            if getter.required:
                raise InputError("it has no .txt for its caption")
            return ()
        return getter.alternatives(sample.text.read().decode("utf-8", "replace"))


def _fingerprint(samples: Sequence[Sample]) -> str:
    """A hash of where in their files the samples lie, and of when these were changed, but not of their folders."""

    @cache
    def state(file: Path | RemoteFile) -> str:
        return file.state if isinstance(file, RemoteFile) else str(file.stat().st_mtime_ns)

    digest = hashlib.sha256()
    for sample in samples:
        for member in (sample.picture, sample.text, sample.fields, sample.mask):
            if member is not None:
                digest.update(f"{member.file.name} {state(member.file)} {member.offset} {member.size}\n".encode())
    return digest.hexdigest()[:16]
