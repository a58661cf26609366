"""`littlecascade data build` against a plain Pillow loop and against the codecs alone, and how much memory it takes.

python benchmarks/data_build.py [--pictures 200] [--width 4032] [--rounds 3] [--workers 2] [--memory 1000 10000]

The calls take turns, and of each the best round counts. `plain` is one process that decodes, resizes and encodes with
Pillow's defaults, hashes and writes a tar; with `draft` it lets Pillow shrink while it decodes. `codecs` is decoding,
resizing and encoding alone, as the workers do them. ` x 2` means in two processes, whose start is included. Seconds of
the processor are those of all processes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
from PIL import Image, ImageOps

from littlecascade.data.build import Settings, build
from littlecascade.data.fit import Fit, fitted
from littlecascade.data.render import Rendering
from littlecascade.data.shards import Target

SIZE, QUALITY, DISTINCT = 512, 95, 8
FLIPS = (None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.ROTATE_180)
POLL = 0.02  # seconds


def make_pictures(folder: Path, count: int, width: int) -> list[Path]:
    """JPEG files of 4 : 3 with captions: parts of photographs that come with scikit-image, with some noise.

    Up to 192 are unlike one another: they are turned over, and their colours change places.
    """
    from skimage import data

    photographs = [Image.fromarray(getattr(data, name)()) for name in ("astronaut", "coffee", "chelsea", "rocket")]
    rng = np.random.default_rng(0)
    bases: list[Image.Image] = []
    for number in range(min(count, DISTINCT)):
        image = ImageOps.fit(photographs[number % 4], (width, width * 3 // 4), centering=tuple(rng.random(2)))
        noise = rng.normal(0, 4, (image.height, image.width, 1))
        bases.append(Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8)))
    changes = itertools.product(itertools.permutations(range(3)), FLIPS, bases)
    paths = [folder / f"{number:06}.jpg" for number in range(count)]
    for number, (path, (channels, flip, base)) in enumerate(zip(paths, itertools.cycle(changes), strict=False)):
        image = base if flip is None else base.transpose(flip)
        bands = image.split()
        Image.merge("RGB", [bands[channel] for channel in channels]).save(path, quality=90)
        path.with_suffix(".txt").write_text(f"picture {number}")
    return paths


def plain(paths: list[Path], target: Path, *, draft: bool = False) -> None:
    """What one would write by hand."""
    with tarfile.open(target, "w") as archive:
        for number, path in enumerate(paths, 1):
            content = path.read_bytes()
            with Image.open(io.BytesIO(content)) as opened:
                original = opened.size
                height = round(SIZE * opened.height / opened.width)
                if draft:
                    opened.draft(None, (SIZE, height))
                image = ImageOps.exif_transpose(opened).convert("RGB").resize((SIZE, height), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=QUALITY)
            fields = {"size": original, "sha256": hashlib.sha256(buffer.getvalue()).hexdigest()}
            text = path.with_suffix(".txt").read_bytes()
            for suffix, part in (("jpg", buffer.getvalue()), ("txt", text), ("json", json.dumps(fields).encode())):
                info = tarfile.TarInfo(f"{number:06}.{suffix}")
                info.size = len(part)
                archive.addfile(info, io.BytesIO(part))


def codec(path: Path) -> None:
    """Decoding, resizing and encoding."""
    with Image.open(path) as opened:
        image = fitted(opened, Fit(SIZE)).image
    image.save(io.BytesIO(), "JPEG", quality=QUALITY)


def codecs(paths: list[Path], workers: int) -> None:
    """The codecs alone, in as many processes."""
    if workers == 1:
        list(map(codec, paths))
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(codec, paths, chunksize=4))


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the wall clock, and of the processor in this process and in those that it waited for."""
    wall, before = time.perf_counter(), os.times()
    call()
    after = os.times()
    return time.perf_counter() - wall, sum(after[:4]) - sum(before[:4])


def measure_speed(folder: Path, count: int, width: int, rounds: int, workers: int) -> None:
    source = folder / "in"
    source.mkdir()
    paths = make_pictures(source, count, width)
    settings = Settings(Rendering(fit=Fit(SIZE), quality=QUALITY))
    target = Target(folder / "out.tar")

    def build_with(workers: int) -> None:
        build(str(source), target, settings, workers=workers, overwrite=True)

    calls: dict[str, Callable[[], object]] = {
        "plain": lambda: plain(paths, folder / "plain.tar"),
        "plain, draft": lambda: plain(paths, folder / "plain.tar", draft=True),
        "codecs": lambda: codecs(paths, 1),
        "build": lambda: build_with(1),
        f"codecs x {workers}": lambda: codecs(paths, workers),
        f"build x {workers}": lambda: build_with(workers),
    }
    best = dict.fromkeys(calls, (float("inf"), float("inf")))
    for _ in range(rounds):
        for name, call in calls.items():
            wall, busy = timed(call)
            best[name] = min(best[name][0], wall), min(best[name][1], busy)
    for name, (wall, busy) in best.items():
        print(f"{name:14} {wall:8.2f} s wall {busy:8.2f} s of processor {count / wall:8.1f} pictures/s")
    for other in ("plain", "plain, draft", f"codecs x {workers}"):
        print(f"build x {workers} is {best[other][0] / best[f'build x {workers}'][0]:.2f} times as fast as {other}")
    for number in ("", f" x {workers}"):
        more = best[f"build{number}"][1] / best[f"codecs{number}"][1] - 1
        print(f"build{number} takes {more:+.1%} of processor time beyond codecs{number}")


def measure_memory(folder: Path, counts: list[int]) -> None:
    """The most that a build takes for numbers of small pictures, no two alike: its main process, and all together."""
    rng = np.random.default_rng(0)
    for count in counts:
        source = folder / f"in-{count}"
        source.mkdir()
        for number in range(count):
            areas = Image.fromarray(rng.integers(0, 256, (8, 9, 3), dtype=np.uint8))
            areas.resize((36, 32), Image.Resampling.NEAREST).save(source / f"{number}.jpg")
        words = ["data", "build", str(source), "-o", str(folder / f"{count}"), "--size", "32", "--captions", "folder"]
        build = psutil.Popen([sys.executable, "-m", "littlecascade", *words], stdout=subprocess.DEVNULL)
        main = total = 0
        while build.poll() is None:
            sizes = [_resident(process) for process in (build, *build.children(recursive=True))]
            main, total = max(main, sizes[0]), max(total, sum(sizes))
            time.sleep(POLL)
        print(f"{count:8,} pictures: {main / 2**20:.0f} MiB in the main process, {total / 2**20:.0f} MiB in all")


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--width", type=int, default=4032, help="of the pictures; their height is 3/4 of it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--memory", type=int, nargs="*", default=[1000, 10000])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure_speed(Path(folder), args.pictures, args.width, args.rounds, args.workers)
        measure_memory(Path(folder), args.memory)


if __name__ == "__main__":
    main()
