"""Batches of pictures of one shape each, out of pictures of many: multi-aspect-ratio training.

The semantics are those of the official release: each bucket fills a batch of its own, and a picture is resized to cover
its bucket (bilinearly, over all that a pixel of the result covers) and cropped at random. What waits in the buckets is
part of the state by its addresses, and is read again when a run goes on.
"""

from __future__ import annotations

import io
import random
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from littlecascade.data.buckets import Buckets, Size
from littlecascade.data.loader import State, Step
from littlecascade.data.pictures import cut, shrink_while_decoding, to_rgb, upright_size
from littlecascade.data.stream import START, Address, Cursor, Example, Lane, Skip
from littlecascade.errors import InputError

Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge in pixels."""


@dataclass(frozen=True)
class Tile:
    """A picture cut to its bucket. `pixels`: (H, W, 3) uint8. `crop`: of the upright picture of `original` size."""

    name: str
    pixels: np.ndarray[Any, Any]
    caption: str
    fields: Mapping[str, Any]
    original: Size
    crop: Box

    @property
    def size(self) -> Size:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]


_Waiting = dict[Size, dict[Address, Tile]]


class PictureBatch(NamedTuple):
    """Pictures of one size. `pixels`: (B, 3, H, W) uint8; the lists have B entries, as `Tile` has them.

    An array, not a tensor: a process that ends while torch hands a tensor to another one is aborted by the C++ runtime.
    """

    pixels: np.ndarray[Any, Any]
    captions: list[str]
    names: list[str]
    fields: list[Mapping[str, Any]]
    originals: list[Size]
    crops: list[Box]


@dataclass(frozen=True)
class BucketBatches:
    """The stage of a `Loader` that delivers a `PictureBatch` whenever a bucket is full.

    random_ratio: the share of pictures, 0 to 1, that goes to a bucket drawn from all of them, whatever its own shape.
    random_crop: where the crop lies is drawn; without, it is the middle. All draws follow from the seed and the
    position. At the end of the last epoch, what does not fill a batch is left out and counted.
    """

    buckets: Buckets
    batch_size: int
    random_ratio: float = 0.0
    random_crop: bool = True

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"A batch of {self.batch_size} pictures can't be made: batch_size begins at 1.")
        if not 0 <= self.random_ratio <= 1:
            raise InputError(f"bucketeer_random_ratio is {self.random_ratio}: it is a share, from 0 to 1.")

    def __call__(self, lane: Lane, state: State | None) -> Iterator[Step[PictureBatch]]:
        """The batches of a lane."""
        cursor = Cursor(*state["cursor"]) if state else START
        waiting, skipped = self._fetch_waiting(lane, state)
        for outcome, address, after in lane.made(self.tile, cursor):
            cursor = after
            if isinstance(outcome, Skip):
                skipped.append(outcome)
                continue
            bucket = waiting.setdefault(outcome.size, {})
            bucket[address] = outcome
            if len(bucket) == self.batch_size:
                del waiting[outcome.size]
                yield Step(_collate(bucket.values()), tuple(skipped), _state(cursor, waiting))
                skipped = []
        left = (tile.name for bucket in waiting.values() for tile in bucket.values())
        skipped += [Skip(name, "too few of its shape were left for a batch", filtered=True) for name in left]
        yield Step(None, tuple(skipped), _state(cursor, {}))

    def tile(self, example: Example) -> Tile:
        """A picture cut to its bucket. Raises `InputError` if it can't be decoded."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what matters of them becomes an error
                with Image.open(io.BytesIO(example.picture)) as image:
                    return self._cut(image, example)
        except Exception as error:  # a broken file makes Pillow's decoders raise almost anything
            raise InputError(f"it can't be decoded ({error})") from None

    def _cut(self, opened: Image.Image, example: Example) -> Tile:
        draw = random.Random(example.seed)
        original = width, height = upright_size(opened)
        size = self._bucket(width, height, draw)
        scale = max(size[0] / width, size[1] / height)
        crop = self._crop(original, size, scale, draw)
        shrink_while_decoding(opened, scale, room=1)  # 36 dB from decoding all and Lanczos, where bilinear has 33
        image = cut(to_rgb(opened), original, crop, size, Image.Resampling.BILINEAR)
        return Tile(example.name, np.asarray(image), example.caption, example.fields, original, crop)

    def _bucket(self, width: int, height: int, draw: random.Random) -> Size:
        if draw.random() < self.random_ratio:
            return draw.choice(self.buckets.sizes)
        return self.buckets.nearest(width, height)

    def _crop(self, original: Size, size: Size, scale: float, draw: random.Random) -> Box:
        """Where the crop lies in the original: at a whole pixel of the picture that was resized to cover the bucket."""
        corner: list[float] = []
        for side, kept in zip(original, size, strict=True):
            free = max(0, int(side * scale + 1e-6) - kept)
            corner.append((draw.randint(0, free) if self.random_crop else free / 2) / scale)
        left, top = corner
        return left, top, min(left + size[0] / scale, original[0]), min(top + size[1] / scale, original[1])

    def _fetch_waiting(self, lane: Lane, state: State | None) -> tuple[_Waiting, list[Skip]]:
        """What waited in the buckets when `state` was taken, and what of it is no longer to be had."""
        addresses = [Address(*address) for address in state["waiting"]] if state else []
        outcomes = lane.made_again(self.tile, addresses)
        waiting: _Waiting = {}
        lost: list[Skip] = []
        for address in addresses:
            outcome = outcomes.get(address, Skip(str(address), "it is no longer there"))
            if isinstance(outcome, Skip):
                lost.append(outcome)
            else:
                waiting.setdefault(outcome.size, {})[address] = outcome
        return waiting, lost


def _state(cursor: Cursor, waiting: _Waiting) -> State:
    return {"cursor": list(cursor), "waiting": [list(address) for bucket in waiting.values() for address in bucket]}


def _collate(tiles: Iterable[Tile]) -> PictureBatch:
    tiles = list(tiles)
    pixels = np.stack([tile.pixels.transpose(2, 0, 1) for tile in tiles])
    return PictureBatch(
        pixels,
        [tile.caption for tile in tiles],
        [tile.name for tile in tiles],
        [tile.fields for tile in tiles],
        [tile.original for tile in tiles],
        [tile.crop for tile in tiles],
    )
