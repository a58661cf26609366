"""How far the search for look-alikes can be trusted: what it joins among icons, which copies of photographs it finds.

python benchmarks/look_alikes.py [--icons runs/emoji/data]

Icons are those that `recipes/emoji/build.py` draws, from the packages that are pinned there: many differ in one detail,
so that whatever is joined under two names deserves a look. Photographs are those that come with scikit-image; each copy
is held against its original.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import skimage.data
from PIL import Image, ImageEnhance

from littlecascade.data.alike import Comparison, alike
from littlecascade.data.look import look
from littlecascade.data.sources import Sample, find_samples

PHOTOGRAPHS = (
    *("astronaut", "brick", "camera", "cat", "cell", "clock", "coffee", "coins", "grass", "gravel"),
    *("hubble_deep_field", "immunohistochemistry", "microaneurysms", "moon", "page", "rocket", "text"),
)


def encoded(image: Image.Image) -> Image.Image:
    """Encoded at quality 20."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=20)
    return Image.open(buffer)


def resized(image: Image.Image, factor: float) -> Image.Image:
    """At so many times the size."""
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)


def cropped(image: Image.Image, share: float) -> Image.Image:
    """Without so much of each side."""
    across, down = round(image.width * share), round(image.height * share)
    return image.crop((across, down, image.width - across, image.height - down))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "quality 20": encoded,
    "half the size": lambda image: resized(image, 0.5),
    "twice the size": lambda image: resized(image, 2),
    "15 % darker": lambda image: ImageEnhance.Brightness(image).enhance(0.85),
    "15 % lighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "cropped by 2 %": lambda image: cropped(image, 0.02),
    "cropped by 4 %": lambda image: cropped(image, 0.04),
}


def grouped(samples: Sequence[Sample]) -> tuple[list[list[int]], list[list[int]]]:
    """The groups that hashes and colours alone make, and those that are left when the pictures are compared."""
    with ThreadPoolExecutor() as pool:
        measures = [seen.measures for seen in pool.map(lambda sample: look(sample, len), samples)]
    marks = [(each.fingerprint, each.colour) if each else (0, 0) for each in measures]
    fingerprints, colours = zip(*marks, strict=True)
    with Comparison([sample.picture for sample in samples]) as same:
        return list(alike(fingerprints, colours, lambda one, other: True)), list(alike(fingerprints, colours, same))


def later(groups: Sequence[Sequence[int]]) -> int:
    """How many look like an earlier one."""
    return sum(len(group) - 1 for group in groups)


def judge_icons(place: str) -> None:
    """Print what is joined, and how much of it has two names."""
    samples = find_samples(place)
    rough, groups = grouped(samples)
    named = [[str(samples[index].metadata()["name"]) for index in group] for group in groups]
    pairs = [(names[0], name) for names in named for name in names[1:] if name != names[0]]
    print(f"of {len(samples):,} icons {later(groups):,} look like an earlier one, {len(pairs):,} under another name")
    print(f"hashes and colours alone join {later(rough):,}")
    for first, other in pairs[:10]:
        print(f"  {other} = {first}")


def judge_photographs(folder: Path) -> None:
    """Print how many copies of each kind are found, and how many photographs are taken for another's."""
    found = dict.fromkeys(COPIES, 0)
    for name in PHOTOGRAPHS:
        image = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
        image.save(folder / f"{name}.png")
        for kind, change in COPIES.items():
            pair = folder / "pairs" / name / kind
            pair.mkdir(parents=True)
            image.save(pair / "0.png")
            change(image).save(pair / "1.png")
            found[kind] += later(grouped(find_samples(str(pair)))[1])
    for kind, count in found.items():
        print(f"{kind:16} {count} of {len(PHOTOGRAPHS)} photographs' copies are found")
    originals = [sample for sample in find_samples(str(folder)) if "/" not in sample.name]
    print(f"{later(grouped(originals)[1])} of {len(originals)} photographs look like another")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--icons", help="the folder that recipes/emoji/build.py made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        judge_photographs(Path(folder))
    if options.icons:
        judge_icons(options.icons)


if __name__ == "__main__":
    main()
