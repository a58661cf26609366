"""`littlecascade data build` against a plain Pillow loop and against the codecs alone, and how much memory it takes.

python benchmarks/data_build.py [--pictures 200] [--rounds 3] [--workers 2] [--memory 1000 10000]

The three take turns, and of each the best round counts. `plain` is one process that decodes, resizes and encodes with
Pillow's defaults, hashes and writes a tar; `plain, draft` lets Pillow shrink while it decodes. `codecs` is decoding,
resizing and encoding alone, as the workers do them, in one process. Seconds of the processor are of all processes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from littlecascade.data.build import Settings, build
from littlecascade.data.fit import Fit, fitted
from littlecascade.data.render import Rendering
from littlecascade.data.shards import Target

WIDTH, HEIGHT, SIZE, QUALITY = 2000, 1500, 512, 95
PEAK = """
import resource, sys
from littlecascade.cli.main import main
main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def make_pictures(folder: Path, count: int) -> list[Path]:
    """JPEG files of 3 million pixels: parts of photographs that come with scikit-image, each with some noise."""
    from skimage import data

    photographs = [Image.fromarray(getattr(data, name)()) for name in ("astronaut", "coffee", "chelsea", "rocket")]
    rng = np.random.default_rng(0)
    paths: list[Path] = []
    for number in range(count):
        image = ImageOps.fit(photographs[number % 4], (WIDTH, HEIGHT), centering=tuple(rng.random(2)))
        noise = rng.normal(0, 4, (HEIGHT, WIDTH, 3))
        noisy = Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
        paths.append(folder / f"{number:06}.jpg")
        noisy.save(paths[-1], quality=90)
        paths[-1].with_suffix(".txt").write_text(f"picture {number}")
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
            fields = {"size": original, "sha256": hashlib.sha256(content).hexdigest()}
            text = path.with_suffix(".txt").read_bytes()
            for suffix, part in (("jpg", buffer.getvalue()), ("txt", text), ("json", json.dumps(fields).encode())):
                info = tarfile.TarInfo(f"{number:06}.{suffix}")
                info.size = len(part)
                archive.addfile(info, io.BytesIO(part))


def codecs(paths: list[Path]) -> None:
    """Decoding, resizing and encoding."""
    for path in paths:
        with Image.open(path) as opened:
            image = fitted(opened, Fit(SIZE)).image
        image.save(io.BytesIO(), "JPEG", quality=QUALITY)


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the wall clock, and of the processor in this process and in those that it waited for."""
    wall, before = time.perf_counter(), os.times()
    call()
    after = os.times()
    return time.perf_counter() - wall, sum(after[:4]) - sum(before[:4])


def measure_speed(folder: Path, count: int, rounds: int, workers: int) -> None:
    source = folder / "in"
    source.mkdir()
    paths = make_pictures(source, count)
    settings = Settings(Rendering(fit=Fit(SIZE), quality=QUALITY))
    target = Target(folder / "out.tar")
    calls: dict[str, Callable[[], object]] = {
        "plain": lambda: plain(paths, folder / "plain.tar"),
        "plain, draft": lambda: plain(paths, folder / "plain.tar", draft=True),
        "codecs": lambda: codecs(paths),
        "build": lambda: build(str(source), target, settings, workers=workers, overwrite=True),
    }
    best = dict.fromkeys(calls, (float("inf"), float("inf")))
    for _ in range(rounds):
        for name, call in calls.items():
            best[name] = tuple(map(min, best[name], timed(call)))
    for name, (wall, busy) in best.items():
        print(f"{name:14} {wall:8.2f} s wall {busy:8.2f} s of processor {count / wall:8.1f} pictures/s")
    wall, busy = best["build"]
    print(
        f"build is {best['plain'][0] / wall:.2f} times as fast as plain, {best['plain, draft'][0] / wall:.2f} with draft"
    )
    print(f"build takes {busy / best['codecs'][1] - 1:+.1%} of processor time beyond the codecs ({workers} workers)")


def measure_memory(folder: Path, counts: list[int]) -> None:
    """Peak of the main process for numbers of small pictures."""
    for count in counts:
        source = folder / f"in-{count}"
        source.mkdir()
        Image.linear_gradient("L").resize((64, 48)).save(source / "0.jpg")
        for number in range(1, count):
            os.link(source / "0.jpg", source / f"{number}.jpg")
        words = ["data", "build", str(source), "-o", str(folder / f"{count}"), "--size", "32", "--captions", "folder"]
        command = [sys.executable, "-c", PEAK, *words]
        peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
        print(f"{count:8,} pictures: {float(peak):.0f} MiB at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--memory", type=int, nargs="*", default=[1000, 10000])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure_speed(Path(folder), args.pictures, args.rounds, args.workers)
        measure_memory(Path(folder), args.memory)


if __name__ == "__main__":
    main()
