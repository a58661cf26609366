from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from littlecascade.data.batches import BucketBatches, PictureBatch
from littlecascade.data.buckets import Buckets, parse_ratios
from littlecascade.data.loader import Loader
from littlecascade.data.stream import Address, Example, StreamConfig
from littlecascade.errors import InputError

BUCKETS = Buckets(64, parse_ratios(["1/1", "1/2"]))  # (64, 64), (32, 64), (64, 32)
WIDE, TALL, SQUARE = (64, 32), (32, 64), (64, 64)


def encoded(image: Image.Image, kind: str = "png", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def slope(width: int, height: int) -> Image.Image:
    """Red is 256 times x / width in the middle of a pixel, green the same of y: a crop can be read off its colours."""
    x = np.tile((np.arange(width) + 0.5) / width * 256, (height, 1))
    y = np.tile(((np.arange(height) + 0.5) / height * 256)[:, None], (1, width))
    return Image.fromarray(np.stack([x, y, 0 * x], axis=2).astype(np.uint8))


def example(picture: bytes, seed: int = 0) -> Example:
    return Example("a", picture, "a text", {}, Address(0, 0, 0), seed)


def write_shards(folder: Path, shards: Sequence[Sequence[tuple[int, int]]]) -> tuple[Path, ...]:
    """One for each list of sizes; a size of (0, 0) is a picture that can't be decoded."""
    paths = tuple(folder / f"{number:02}.tar" for number in range(len(shards)))
    for path, sizes in zip(paths, shards, strict=True):
        with tarfile.open(path, "w") as archive:
            for number, size in enumerate(sizes):
                picture = encoded(slope(*size)) if all(size) else b"broken"
                caption = f"{path.stem}-{number}".encode()
                for suffix, content in (("png", picture), ("txt", caption)):
                    info = tarfile.TarInfo(f"{number:03}.{suffix}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    return paths


def same(some: Sequence[PictureBatch], others: Sequence[PictureBatch]) -> bool:
    pairs = list(zip(some, others, strict=True))
    return all(np.array_equal(one.pixels, other.pixels) and one[1:] == other[1:] for one, other in pairs)


MIXED = [
    [(80, 40), (40, 80), (64, 64), (90, 50), (0, 0)],
    [(70, 64), (100, 40), (40, 100), (66, 64)],
    [(64, 66), (128, 64), (300, 64)],
]


def test_each_batch_has_one_shape_and_each_picture_its_nearest(tmp_path: Path) -> None:
    config = StreamConfig(write_shards(tmp_path, MIXED), shuffle=6, epochs=3)
    loader = Loader(config, BucketBatches(BUCKETS, 2))
    batches = list(loader)
    for batch in batches:
        height, width = batch.pixels.shape[2:]
        assert batch.pixels.shape == (2, 3, height, width)
        assert batch.pixels.dtype == np.uint8
        assert [BUCKETS.nearest(*original) for original in batch.originals] == [(width, height)] * 2
        for caption, name, original in zip(batch.captions, batch.names, batch.originals, strict=True):
            shard, number = map(int, caption.split("-"))
            assert name == f"{shard:02}.tar/{number:03}"
            assert original == MIXED[shard][number]
    # In 3 epochs there are 15 wide, 6 tall and 12 square pictures: one wide one is left over.
    assert Counter(tuple(batch.pixels.shape[:1:-1]) for batch in batches) == {WIDE: 7, TALL: 3, SQUARE: 6}
    assert loader.tally.filtered == {"too few of its shape were left for a batch": 1}
    assert loader.tally.broken == 3
    assert loader.tally.named[0].startswith("00.tar/004: it can't be decoded")


def test_the_crop_is_recorded_as_it_was_made() -> None:
    """From colours that tell where a pixel was: the box's edges, in shares of the picture, are those of the colours."""
    for seed in range(8):
        for size, target in (((200, 100), WIDE), ((300, 90), WIDE), ((97, 120), SQUARE), ((40, 300), TALL)):
            tile = BucketBatches(BUCKETS, 1).tile(example(encoded(slope(*size)), seed))
            assert tile.size == target
            assert tile.original == size
            left, top, right, bottom = tile.crop
            assert (right - left) / (bottom - top) == pytest.approx(target[0] / target[1])
            assert right - left == pytest.approx(size[0]) or bottom - top == pytest.approx(size[1])  # it covers
            values = tile.pixels.astype(float) / 256
            across, down = values[:, :, 0].mean(), values[:, :, 1].mean()
            assert across == pytest.approx((left + right) / 2 / size[0], abs=0.01)
            assert down == pytest.approx((top + bottom) / 2 / size[1], abs=0.01)


def test_the_crop_lies_anywhere_or_in_the_middle() -> None:
    picture = encoded(slope(256, 64))  # covers 64 x 32 as 128 x 32: 65 places, every second pixel of the original
    crops = [BucketBatches(BUCKETS, 1).tile(example(picture, seed)).crop for seed in range(400)]
    lefts = {crop[0] for crop in crops}
    assert lefts <= set(range(0, 129, 2))
    assert len(lefts) > 55
    assert {0.0, 128.0} <= lefts
    assert BucketBatches(BUCKETS, 1, random_crop=False).tile(example(picture)).crop == (64, 0, 192, 64)


def test_a_share_of_the_pictures_goes_to_a_random_bucket() -> None:
    picture = encoded(slope(128, 64))
    for ratio in (0.0, 0.3, 1.0):
        stage = BucketBatches(BUCKETS, 1, random_ratio=ratio)
        counts = Counter(stage.tile(example(picture, seed)).size for seed in range(600))
        for size in (SQUARE, TALL):
            assert counts[size] == pytest.approx(600 * ratio / 3, abs=5 * (600 * ratio / 3) ** 0.5)
    assert stage.tile(example(picture, 1)).size == stage.tile(example(picture, 1)).size


def test_a_picture_that_fits_is_not_touched() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8))
    tile = BucketBatches(BUCKETS, 1).tile(example(encoded(image)))
    assert np.array_equal(tile.pixels, np.asarray(image))
    assert tile.crop == (0, 0, 64, 32)


def test_a_turned_photo_is_cropped_upright_and_decoded_small() -> None:
    """An upright picture of 600 x 1200, which the camera stored lying."""
    upright = slope(600, 1200)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    stored = encoded(upright.transpose(Image.Transpose.ROTATE_90), "jpeg", exif=exif, quality=95)
    tile = BucketBatches(BUCKETS, 1, random_crop=False).tile(example(stored))
    assert (tile.size, tile.original, tile.crop) == (TALL, (600, 1200), (0, 0, 600, 1200))
    expected = np.asarray(upright.resize(TALL, Image.Resampling.BOX), dtype=float)[:, :, :2]
    assert np.abs(tile.pixels[:, :, :2] - expected).max() < 8


@pytest.mark.parametrize("picture", [b"", b"broken", encoded(slope(64, 64))[:80]])
def test_what_can_not_be_decoded_is_told(picture: bytes) -> None:
    with pytest.raises(InputError, match=r"^it can't be decoded"):
        BucketBatches(BUCKETS, 1).tile(example(picture))


def resumed(config: StreamConfig, stage: BucketBatches, workers: int, stop: int, total: int) -> list[PictureBatch]:
    first = Loader(config, stage, workers)
    before = list(islice(first, stop))
    second = Loader(config, stage, workers)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    return before + list(islice(second, total - stop))


@pytest.mark.parametrize("resampled", [False, True])
def test_batches_go_on_after_any_of_them(tmp_path: Path, resampled: bool) -> None:
    """With what waited in the buckets, some of it since epochs ago."""
    config = StreamConfig(write_shards(tmp_path, MIXED), shuffle=6, resampled=resampled)
    stage = BucketBatches(BUCKETS, 3, random_ratio=0.2)
    expected = list(islice(Loader(config, stage), 14))
    for stop in range(15):
        assert same(resumed(config, stage, 0, stop, 14), expected)


@pytest.mark.slow
def test_batches_of_spawned_workers_go_on(tmp_path: Path) -> None:
    config = StreamConfig(write_shards(tmp_path, MIXED), shuffle=6)
    stage = BucketBatches(BUCKETS, 2, random_ratio=0.2)
    expected = list(islice(Loader(config, stage, 2), 9))
    for stop in (3, 4):
        assert same(resumed(config, stage, 2, stop, 9), expected)


def test_what_waited_and_is_gone_is_named(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, [[(80, 40), (64, 64), (64, 64), (80, 40)]])
    config = StreamConfig(shards, shuffle=0, epochs=1)
    first = Loader(config, BucketBatches(BUCKETS, 2))
    next(iter(first))  # the square ones: the first wide one waits
    write_shards(tmp_path, [[(0, 0), (64, 64), (64, 64), (80, 40)]])
    second = Loader(config, BucketBatches(BUCKETS, 2))
    second.load_state_dict(first.state_dict())
    assert list(second) == []
    assert second.tally.broken == 1
    assert second.tally.named[0].startswith("00.tar/000: it can't be decoded")


@pytest.mark.parametrize(("batch_size", "ratio"), [(0, 0.0), (1, 1.5), (1, -0.1)])
def test_settings_that_make_no_sense_are_told(batch_size: int, ratio: float) -> None:
    with pytest.raises(InputError, match=r"batch_size|bucketeer_random_ratio"):
        BucketBatches(BUCKETS, batch_size, ratio)
