"""How many pictures a second come out of local shards, decoded and batched, beside what training of `tiny` consumes.

python benchmarks/data_reading.py [--workers 0 2] [--source 256] [--side 128] [--shards 4] [--count 500] [--seconds 10]

The shards are made up first: JPEG pictures of smooth colours with noise, each with a caption and a json. What `tiny`
consumes is measured: a Stage C run from a cache, with batches as those of configs/training/lora_tiny.yaml, its waiting
taken off. The first batch of each reader, which waits for the workers' start and for the first block, is not in the
time. Beside the whole, three parts of the work alone, in this process: the codec (decoding, as small as it gives it,
to an array), cutting to the bucket without shards, and the sweep through the shards without decoding; and the batches
of the run from the cache. Rates are also given by this process's own processor time, which counts on a machine that
does other things meanwhile.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from littlecascade.checkpoint import places
from littlecascade.data.batches import BucketBatches
from littlecascade.data.buckets import Buckets
from littlecascade.data.getters import parse_filters
from littlecascade.data.loader import Loader
from littlecascade.data.stream import Example, Lane, Skip, StreamConfig, find_shards
from littlecascade.training import metrics as logging
from littlecascade.training.config import StageCRun
from littlecascade.training.config_file import parse_config
from littlecascade.training.draws import Draws
from littlecascade.training.run import TASKS, train

BATCH = 16
UPDATES, FIRST = 40, 10
"""Of the run that is measured, and those of them that are not counted."""


def write_shards(folder: Path, shards: int, number_each: int, side: int) -> None:
    """So many shards of so many pictures of side x side."""
    random = np.random.default_rng(0)
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:03}.tar", "w") as archive:
            for number in range(number_each):
                caption, fields = f"picture {number}", {"width": side, "height": side}
                add(archive, f"{number:06}.jpg", picture(random, side))
                add(archive, f"{number:06}.txt", caption.encode())
                add(archive, f"{number:06}.json", json.dumps(fields).encode())


def picture(random: np.random.Generator, side: int) -> bytes:
    """A JPEG file about as large as one of a photograph of this size."""
    coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.int16)
    noisy = (smooth + random.integers(-12, 13, (side, side, 3))).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "jpeg", quality=90)
    return buffer.getvalue()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """One member."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    archive.addfile(header, io.BytesIO(content))


def rates(sizes: Iterable[int], seconds: float) -> tuple[float, float]:
    """Pictures a second, and a second of processor time, of items with so many pictures each, after the first item."""
    items = iter(sizes)
    next(items)
    began, worked, pictures = time.perf_counter(), time.process_time(), 0
    for size in items:
        pictures += size
        if time.perf_counter() - began > seconds:
            break
    return pictures / (time.perf_counter() - began), pictures / (time.process_time() - worked)


def as_it_is(example: Example) -> Example:
    """For a sweep without decoding."""
    return example


def again_and_again(stage: BucketBatches, examples: list[Example]) -> Iterator[int]:
    """Decode what is in memory."""
    while True:
        for example in examples:
            stage.tile(example)
            yield 1


def codec(examples: list[Example], side: int) -> Iterator[int]:
    """Decode what is in memory, and no more."""
    while True:
        for example in examples:
            with Image.open(io.BytesIO(example.picture)) as image:
                image.draft(None, (side, side))
                np.asarray(image)
            yield 1


def configuration(folder: Path, side: int) -> dict[str, Any]:
    """A Stage C run of `tiny` over the shards, from a cache."""
    weights = places.packaged("tiny")
    return {
        "experiment_id": "reading",
        "output_path": str(folder / "runs"),
        "webdataset_path": str(folder),
        "image_size": side,
        "lr": 1e-3,
        "updates": UPDATES,
        "save_every": 10 * UPDATES,
        "batch_size": BATCH,
        "text_path": str(weights / "text"),
        "effnet_checkpoint_path": str(weights / "effnet_encoder.safetensors"),
        "previewer_checkpoint_path": str(weights / "previewer.safetensors"),
    }


def consumed(folder: Path, values: dict[str, Any]) -> float:
    """Pictures a second that the updates of a run take in."""
    logging.LOG_EVERY = 1
    path = folder / "reading.yaml"
    path.write_text(yaml.safe_dump(values), "utf-8")
    train("c", path)
    metrics = (folder / "runs" / "reading" / "metrics.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in metrics.splitlines()]
    return BATCH / statistics.median(row["seconds"] * (1 - row["wait"]) for row in rows[FIRST:])


def cached(values: dict[str, Any]) -> Iterator[int]:
    """The batches of a run whose cache is there."""
    task = TASKS["c"].build(parse_config(StageCRun, values))
    for number in count():
        positions = range(number * BATCH, (number + 1) * BATCH)
        yield len(task.prepare(task.feed.take(number), Draws(0, positions))["x0"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How fast pictures are read from local shards.")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="processes that read (default 0 2)")
    parser.add_argument("--source", type=int, default=256, help="side of the pictures in the shards (default 256)")
    parser.add_argument("--side", type=int, default=128, help="side of the pictures that come out (default 128)")
    parser.add_argument("--shards", type=int, default=4, help="how many (default 4)")
    parser.add_argument("--count", type=int, default=500, help="pictures in each (default 500)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement (default 10)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), options.shards, options.count, options.source)
        config = StreamConfig(find_shards(folder), filters=parse_filters(["width", "lambda w: w >= 64"]))
        stage = BucketBatches(Buckets(options.side), BATCH)
        outcomes = (outcome for outcome, *_ in Lane(config, 0, 1).made(as_it_is))
        examples = [outcome for outcome, _ in zip(outcomes, range(200), strict=False) if not isinstance(outcome, Skip)]
        measured: dict[str, tuple[float, float | None]] = {
            "codec alone": rates(codec(examples, options.side), options.seconds / 2),
            "cut, not read": rates(again_and_again(stage, examples), options.seconds / 2),
            "read, not decoded": rates((1 for _ in outcomes), options.seconds / 2),
        }
        for workers in options.workers:
            sizes = (len(batch.names) for batch in Loader(config, stage, workers))
            by_clock, by_processor = rates(sizes, options.seconds)
            measured[f"batches, {workers} workers"] = by_clock, None if workers else by_processor
        values = configuration(Path(folder), options.side)
        tiny = consumed(Path(folder), values)
        measured["cached"] = rates(cached(values), options.seconds / 2)
    kib = sum(len(example.picture) for example in examples) / len(examples) / 1024
    print(f"JPEG files of {options.source} x {options.source}, {kib:.0f} KiB, to {options.side} x {options.side}")
    print(f"{'tiny consumes':20} {tiny:6.0f} pictures/s")
    for name, (by_clock, by_processor) in measured.items():
        own = "" if by_processor is None else f", {by_processor:6.0f} by processor time"
        print(f"{name:20} {by_clock:6.0f} pictures/s, {by_clock / tiny:5.1f} times what tiny consumes{own}")


if __name__ == "__main__":
    main()
