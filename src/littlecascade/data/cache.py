"""What frozen networks make of a data set, computed once and kept: decoded pictures, latents, embeddings.

A cache is a folder of folders, one for the rows and one for each column, and in these a file for each part of some
hundred samples. A folder's name has a hash of all that decides its content: the data, their cut, the network's weights.
So runs that need the same thing share it, and one that was made of something else is never read. A file is there whole
or not at all, so that work that was stopped goes on, and several machines that share a disk can each make some parts.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from littlecascade.checkpoint import files
from littlecascade.data.buckets import Size
from littlecascade.data.stream import Skip
from littlecascade.data.table import Row, Source
from littlecascade.data.texts import Texts
from littlecascade.errors import InputError

BATCH_PIXELS = 1 << 21
"""Of the pictures that a network is given at a time."""
_RESERVE = 1 << 28  # bytes of the disk that are left free
_SETTINGS = "settings.json"


@dataclass(frozen=True)
class Column:
    """Something computed from each picture: `compute` takes (B, 3, H, W) in [0, 1] and gives (B, ...).

    key: tells apart whatever else decides the result, such as the weights of a network. Kept in `dtype`.
    """

    name: str
    key: str
    compute: Callable[[Tensor], Tensor]
    dtype: torch.dtype = torch.float16


PIXELS = Column("pixels", "", lambda pixels: (pixels * 255).round(), torch.uint8)
"""The pictures themselves, (3, H, W) from 0 to 255."""


@dataclass
class Part:
    """Some samples' rows, and what of the others is `broken` or `filtered` (how many, by reason)."""

    rows: list[Row] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    filtered: dict[str, int] = field(default_factory=dict)

    def leave_out(self, skip: Skip) -> None:
        """Note a sample that has no row."""
        if skip.filtered:
            self.filtered[skip.reason] = self.filtered.get(skip.reason, 0) + 1
        else:
            self.broken.append(f"{skip.name}: {skip.reason}")


class Cache:
    """The rows of a source that can be used, and their columns. Missing parts are made before the object is there.

    texts: where the embeddings of all captions, and of the empty one, are added. Raises `InputError` if none of the
    samples can be used, or if the disk is too small.
    """

    def __init__(self, source: Source, columns: Sequence[Column], root: Path, texts: Texts | None = None) -> None:
        _fill(source, columns, root, range(source.parts))
        self.source, self.texts = source, texts
        folders = _folders(source, columns, root)
        parts = [_read_part(folders, number) for number in range(source.parts)]
        _encode_captions(texts, parts)
        self.rows = [row for part in parts for row in part.rows]
        self.broken = [line for part in parts for line in part.broken]
        self.filtered: dict[str, int] = {}
        for part in parts:
            for reason, count in part.filtered.items():
                self.filtered[reason] = self.filtered.get(reason, 0) + count
        if not self.rows:
            raise InputError(_why_none(len(source.samples), self.broken, self.filtered))
        self._columns = {column.name: _Stored(folders[column.name], parts) for column in columns}

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str, rows: Sequence[int]) -> Tensor:
        """(len(rows), ...) of rows of one size, in float32; pixels in [0, 1]."""
        values = self._columns[name].read(rows).float()
        return values / 255 if name == PIXELS.name else values

    def groups(self) -> dict[Size, list[int]]:
        """The rows of each size."""
        groups: dict[Size, list[int]] = {}
        for number, row in enumerate(self.rows):
            groups.setdefault(row.size, []).append(number)
        return groups


def fill(
    source: Source,
    columns: Sequence[Column],
    root: Path,
    texts: Texts | None = None,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> int:
    """Make this process's share of what is not there yet: every `world_size`-th part. Returns how many parts that were.

    Processes need a common disk and no other contact. Raises `InputError` if the disk is too small.
    """
    own = range(rank, source.parts, world_size)
    made = _fill(source, columns, root, own)
    folders = _folders(source, (), root)
    _encode_captions(texts, (_read_part(folders, number) for number in own))
    return made


def _fill(source: Source, columns: Sequence[Column], root: Path, own: range) -> int:
    """Make what is missing of some parts, but for captions; returns of how many parts something was."""
    folders = _folders(source, columns, root)
    missing = {number: names for number in own if (names := _missing(folders, number))}
    if missing:
        _announce(source, root, folders[""])
    samples = sum(len(source.part(number)) for number in missing)
    with ThreadPoolExecutor() as pool, tqdm(total=samples, desc="caching", unit="sample", disable=None) as bar:
        for done, (number, names) in enumerate(missing.items(), 1):
            part, tensors = _make(source, number, [column for column in columns if column.name in names], pool, bar)
            for name, values in tensors.items():
                files.save(_path(folders, name, number), values)
            files.write_text(_path(folders, "", number), json.dumps(asdict(part)))  # last: what it lists is there
            written = sum(_path(folders, name, number).stat().st_size for name in names)
            _check_space(root, written * (len(missing) - done))
    return len(missing)


def _encode_captions(texts: Texts | None, parts: Iterable[Part]) -> None:
    if texts is not None:
        captions = (caption for part in parts for row in part.rows for caption in row.captions)
        texts.ensure(chain([""], captions))


@torch.no_grad()
def _make(
    source: Source, number: int, columns: Sequence[Column], pool: ThreadPoolExecutor, bar: Any
) -> tuple[Part, dict[str, dict[str, Tensor]]]:
    """A part's rows, and of each column the tensors (N, ...) of each size."""
    part, batches = Part(), _Batches(columns)
    for outcome in source.cut_all(source.part(number), pool):
        bar.update()
        if isinstance(outcome, Skip):
            part.leave_out(outcome)
            continue
        row, tile = outcome
        part.rows.append(row)
        batches.add(row.size, tile.pixels)
    return part, batches.finish()


class _Batches:
    """Collects pictures by size, and has the columns computed of as many at a time as `BATCH_PIXELS` allows."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = columns
        self.waiting: dict[Size, list[np.ndarray[Any, Any]]] = {}
        self.done: dict[str, dict[str, list[Tensor]]] = {column.name: {} for column in columns}

    def add(self, size: Size, pixels: np.ndarray[Any, Any]) -> None:
        """pixels: (H, W, 3) uint8."""
        waiting = self.waiting.setdefault(size, [])
        waiting.append(pixels)
        if len(waiting) >= max(1, BATCH_PIXELS // (size[0] * size[1])):
            self._compute(size)

    def finish(self) -> dict[str, dict[str, Tensor]]:
        """Of each column, what was computed, by size: (N, ...) in the order in which the pictures came."""
        for size, waiting in self.waiting.items():
            if waiting:
                self._compute(size)
        return {name: {size: torch.cat(values) for size, values in by.items()} for name, by in self.done.items()}

    def _compute(self, size: Size) -> None:
        pixels = torch.from_numpy(np.stack(self.waiting[size])).permute(0, 3, 1, 2).float() / 255
        self.waiting[size] = []
        for column in self.columns:
            values = column.compute(pixels).to("cpu", column.dtype)
            self.done[column.name].setdefault(size_name(size), []).append(values)


class _Stored:
    """A column's files, each opened when it is first needed and then memory-mapped."""

    def __init__(self, folder: Path, parts: Sequence[Part]) -> None:
        self.folder = folder
        self.places: list[tuple[int, str, int]] = []  # of each row: its part, its size, its number among those
        self._open: dict[int, Mapping[str, Tensor]] = {}
        for number, part in enumerate(parts):
            counts: dict[str, int] = {}
            for row in part.rows:
                size = size_name(row.size)
                self.places.append((number, size, counts.get(size, 0)))
                counts[size] = counts.get(size, 0) + 1

    def read(self, rows: Sequence[int]) -> Tensor:
        places = [self.places[row] for row in rows]
        return torch.stack([self._part(part)[size][place] for part, size, place in places])

    def _part(self, number: int) -> Mapping[str, Tensor]:
        if number not in self._open:
            self._open[number] = files.load(self.folder / f"{number:05}.safetensors")
        return self._open[number]


def size_name(size: Size) -> str:
    """As a column's files have it.

    >>> size_name((768, 512))
    '768x512'
    """
    return f"{size[0]}x{size[1]}"


def _folders(source: Source, columns: Sequence[Column], root: Path) -> dict[str, Path]:
    """The folder of the rows, called "", and of each column."""
    rows = _hash(source.settings)
    folders = {column.name: root / f"{column.name}-{_hash([rows, column.key])}" for column in columns}
    return {"": root / f"rows-{rows}", **folders}


def _path(folders: Mapping[str, Path], name: str, number: int) -> Path:
    return folders[name] / f"{number:05}.{'safetensors' if name else 'json'}"


def _missing(folders: Mapping[str, Path], number: int) -> list[str]:
    return [name for name in folders if not _path(folders, name, number).is_file()]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _announce(source: Source, root: Path, folder: Path) -> None:
    """Keep beside the rows what decides them, and say what has changed since the same place was cached before."""
    path, settings = folder / _SETTINGS, {"place": source.place, **source.settings}
    if path.is_file():
        return
    others = sorted(root.glob(f"rows-*/{_SETTINGS}"), key=lambda other: other.stat().st_mtime, reverse=True)
    files.write_text(path, json.dumps(settings))
    for other in others:
        before = json.loads(other.read_text("utf-8"))
        if before.get("place") == source.place:
            changed = ", ".join(key for key in settings if before.get(key) != settings[key])
            tqdm.write(
                f"{other.parent} is out of date, since its {changed} changed: making a cache anew.", file=sys.stderr
            )
            return


def _check_space(root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if needed and needed + _RESERVE > free:
        raise InputError(
            f"The cache in {root} needs about {needed / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free: make room, "
            "name another disk as cache_path, or set cache: false to encode anew at each visit."
        )


def _read_part(folders: Mapping[str, Path], number: int) -> Part:
    content = json.loads(_path(folders, "", number).read_text("utf-8"))
    return Part([Row.from_json(row) for row in content["rows"]], content["broken"], content["filtered"])


def _why_none(count: int, broken: Sequence[str], filtered: Mapping[str, int]) -> str:
    reasons = [f"{number} times: {reason}" for reason, number in filtered.items()]
    if broken:
        reasons.append(f"{len(broken)} can't be read, the first: {broken[0]}")
    return f"None of the {count} samples can be used: {'; '.join(reasons)}."
