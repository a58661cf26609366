"""Builds training shards from openly licensed emoji art: `python recipes/emoji/build.py --out FOLDER`."""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import fetch
import names
import recolour
import render
from captions import Synonyms, captions, read_synonyms
from sources import EMOJIBASE, EMOJILIB, PACKAGES, STYLES, Art, Style

HERE = Path(__file__).parent
SHARD_SAMPLES = 2000
SEED = 20
SIGNS = frozenset({"symbols", "flags"})


@dataclass(frozen=True)
class Drawing:
    """An emoji as one style draws it."""

    emoji: names.Emoji
    art: Art
    style: Style


@dataclass(frozen=True)
class Sample:
    """A picture to be drawn with everything that is written next to it."""

    key: str
    job: render.Job
    lines: tuple[str, ...]
    facts: dict[str, object]
    held_out: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the build and prints its counts as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--size", type=int, default=128, help="width and height in pixels (default 128)")
    parser.add_argument("--cache", type=Path, default=None, help="folder for downloads (default OUT/../cache)")
    parser.add_argument("--workers", type=int, default=None, help="processes that draw (default: one for each core)")
    options = parser.parse_args(arguments)
    if any(options.out.glob("*.tar")):
        parser.error(f"{options.out} already holds shards, and a build leaves no mixture: name a new folder.")
    began = time.monotonic()
    try:
        report = build(options.out, options.size, options.cache or options.out.parent / "cache", options.workers)
    except fetch.FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps({**report, "seconds": round(time.monotonic() - began, 1)}, indent=1))
    return 0


def build(out: Path, size: int, cache: Path, workers: int | None = None) -> dict[str, object]:
    """Fetches the packages, draws every picture and writes the shards and tables into `out`; returns the counts."""
    out.mkdir(parents=True, exist_ok=True)
    folders = {package.name: fetch.fetch(package, cache) for package in PACKAGES}
    emoji = names.load(folders[EMOJIBASE.name], folders[EMOJILIB.name])
    synonyms = read_synonyms(HERE / "synonyms.txt")
    synonyms.check(one.name for one in emoji)
    by_code = {one.code: one for one in emoji}
    drawings = {
        (style.name, art.code): Drawing(one, art, style)
        for style in STYLES
        for art in style.read(folders[style.package.name])
        if (one := by_code.get(art.code)) is not None and style.accepts(one)
    }
    plan = partial(pictures, synonyms=synonyms, taken=frozenset(one.name for one in emoji), size=size)
    planned = render.spread(plan, [drawings[key] for key in sorted(drawings)], "recolouring", workers)
    samples = [sample for group in planned for sample in group]
    random.Random(SEED).shuffle(samples)
    training = [sample for sample in samples if not sample.held_out]
    held_out = [sample for sample in samples if sample.held_out]
    files = write_shards(out, "train", training, workers) + write_shards(out, "heldout", held_out, workers)
    styles: dict[str, list[str]] = {one.name: [] for one in emoji}
    for sample in samples:
        if sample.facts["colour"] is None:
            styles[str(sample.facts["name"])].append(str(sample.facts["style"]))
    table = {one.name: {"group": one.group, "styles": sorted(styles[one.name])} for one in emoji if styles[one.name]}
    write_json(out / "names.json", table)
    write_json(out / "synonyms.json", dict(sorted(synonyms.held_out.items())))
    write(out / "ATTRIBUTION.md", attribution().encode())
    return counts(samples, table, synonyms, files)


def pictures(drawing: Drawing, synonyms: Synonyms, taken: frozenset[str], size: int) -> list[Sample]:
    """The picture of an emoji in a style and, where it suits, its recoloured versions (never named as in `taken`)."""
    emoji, art, style = drawing.emoji, drawing.art, drawing.style
    key = f"{style.name}_{emoji.code}"
    words = synonyms.shown.get(emoji.name, ())
    facts = {
        "name": emoji.name,
        "style": style.name,
        "group": emoji.group,
        "subgroup": emoji.subgroup,
        "keywords": [word for word in emoji.keywords if word not in synonyms.held_out],
        "colour": None,
        "source": f"{style.package.name}@{style.package.version}",
        "licence": style.package.licence,
        "width": size,
        "height": size,
        "unicode": emoji.code,
    }
    lines = captions(emoji.name, style.phrases, words, counted=emoji.group not in SIGNS, salt=style.name)
    samples = [Sample(key, render.Job(art.svg, art.raster, size), tuple(lines), facts, held_out=False)]
    if art.svg is None or not recolour.suits(emoji):
        return samples
    thing = recolour.object_name(emoji.name)
    usable = [word for word in words if recolour.object_name(word) == word]
    for colour, svg in recolour.variants(art.svg):
        name = f"{colour} {thing}"
        if name in taken:
            continue
        lines = captions(thing, style.phrases, usable, colour, salt=style.name)
        job = render.Job(svg, None, size)
        held_out = recolour.is_held_out(colour, thing)
        recoloured = {**facts, "name": name, "colour": colour}
        samples.append(Sample(f"{key}_{colour}", job, tuple(lines), recoloured, held_out))
    return samples


def write_shards(out: Path, prefix: str, samples: Sequence[Sample], workers: int | None) -> list[Path]:
    """Draws `samples` and writes them as `prefix-000.tar`, ...; a shard bears its name only once it is whole."""
    drawn = render.spread(render.encode, [sample.job for sample in samples], f"drawing {prefix}", workers)
    paths: list[Path] = []
    for start in range(0, len(samples), SHARD_SAMPLES):
        path = out / f"{prefix}-{len(paths):03d}.tar"
        temporary = path.with_suffix(".tar.tmp")
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            for sample, picture in zip(samples[start : start + SHARD_SAMPLES], drawn, strict=False):
                add(tar, f"{sample.key}.webp", picture)
                add(tar, f"{sample.key}.txt", ("\n".join(sample.lines) + "\n").encode())
                add(tar, f"{sample.key}.json", json.dumps(sample.facts).encode())
        temporary.replace(path)
        paths.append(path)
    return paths


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Adds a member without times or owners, so that equal content makes equal archives."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def attribution() -> str:
    """A Markdown table of every package used, with author, licence and source."""
    rows = [f"| [{p.work}]({p.url}) | {p.author} | {p.licence} | `{p.name}@{p.version}` |" for p in PACKAGES]
    note = "Pictures were drawn at a fixed size on white; some were recoloured. CC-BY-4.0 asks that this is stated."
    head = ["# Attribution", "", note, "", "| work | author | licence | package |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *rows, ""])


def write(path: Path, data: bytes) -> None:
    """Writes `data` under a temporary name, then renames it to `path`."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def write_json(path: Path, value: object) -> None:
    """Writes `value` as indented JSON."""
    write(path, (json.dumps(value, indent=1) + "\n").encode())


def counts(
    samples: Sequence[Sample], table: dict[str, dict[str, object]], synonyms: Synonyms, files: Iterable[Path]
) -> dict[str, object]:
    """What a build made, in numbers."""
    plain = [sample.facts for sample in samples if sample.facts["colour"] is None]
    coloured = [sample for sample in samples if sample.facts["colour"] is not None]
    return {
        "training": sum(not sample.held_out for sample in samples),
        "held_out": sum(sample.held_out for sample in samples),
        "names": len(table),
        "styles": dict(Counter(str(facts["style"]) for facts in plain)),
        "groups": dict(Counter(str(facts["group"]) for facts in plain)),
        "recoloured": dict(Counter(f"{s.facts['style']} {s.facts['colour']}" for s in coloured)),
        "recoloured_total": len(coloured),
        "held_out_pairs": len({sample.facts["name"] for sample in coloured if sample.held_out}),
        "synonyms_held_out": len(synonyms.held_out),
        "bytes": sum(path.stat().st_size for path in files),
    }


if __name__ == "__main__":
    raise SystemExit(main())
