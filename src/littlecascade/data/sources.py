"""Where pictures come from: a folder of pictures, a tar shard, a folder of shards, a glob, or a list of these.

A sample is what shares a stem: `cat.jpg`, `cat.txt` (one caption a line, each an alternative), `cat.json` (any fields).
Sources only index and read bytes; `littlecascade.data.pixels` decodes them.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from littlecascade.errors import InputError, suggest

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
SIDECAR_SUFFIXES = frozenset({".txt", ".json"})


@dataclass(frozen=True)
class Member:
    """A run of bytes: `size` bytes of `file`, starting at `offset`."""

    file: Path
    offset: int
    size: int

    def read(self) -> bytes:
        with self.file.open("rb") as handle:
            handle.seek(self.offset)
            return handle.read(self.size)


@dataclass(frozen=True)
class Sample:
    """One picture with its captions and fields. `name` tells a person where it is."""

    name: str
    picture: Member
    text: Member | None = None
    fields: Member | None = None

    def captions(self) -> list[str]:
        """The alternatives of the `.txt` member, one a line, blank lines left out."""
        if self.text is None:
            return []
        return [line.strip() for line in self.text.read().decode("utf-8", "replace").splitlines() if line.strip()]

    def metadata(self) -> dict[str, Any]:
        """The `.json` member, or nothing. Raises `InputError` if it is not a JSON object."""
        if self.fields is None:
            return {}
        try:
            value = json.loads(self.fields.read())
        except ValueError as error:
            raise InputError(f"{self.name}: its .json member is not JSON ({error}).") from None
        if not isinstance(value, dict):
            raise InputError(f"{self.name}: its .json member holds a {type(value).__name__}, not an object.")
        return value


def find_samples(where: str | Sequence[str]) -> list[Sample]:
    """Every sample of a source, in a fixed order (by file name, then by position in the file).

    `where` is a folder of pictures or of tar shards, a tar file, a glob such as `train-*.tar`, or a list of these;
    a `file:` prefix is allowed. Raises `InputError` when a place is missing, holds no picture, or is a broken tar file.
    """
    samples: list[Sample] = []
    for place in [where] if isinstance(where, str) else where:
        found = [sample for path in _resolve(place) for sample in _scan(path)]
        if not found:
            raise InputError(f"No picture in {place!r}: looked for {', '.join(sorted(PICTURE_SUFFIXES))} and .tar.")
        samples.extend(found)
    return samples


def matches(place: str) -> list[Path]:
    """The files or folders that a place names, absolute and sorted: itself, or what its glob finds, if anything."""
    path = Path(place.removeprefix("file:")).expanduser().absolute()
    if path.exists():
        return [path]
    return sorted(path.parent.glob(path.name)) if any(mark in path.name for mark in "*?[") else []


def _resolve(place: str) -> list[Path]:
    found = matches(place)
    if not found:
        path = Path(place.removeprefix("file:")).expanduser().absolute()
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(f"No data at {place!r}: looked for {path}.{suggest(path.name, beside)}")
    return found


def _scan(path: Path) -> list[Sample]:
    if path.is_dir():
        files = sorted(entry for entry in path.rglob("*") if entry.is_file())
        loose = group((file.relative_to(path).as_posix(), Member(file, 0, file.stat().st_size)) for file in files)
        return loose + [sample for file in files if file.suffix == ".tar" for sample in _scan(file)]
    if path.suffix == ".tar":
        return group(_tar_members(path), prefix=f"{path.name}/")
    return group([(path.name, Member(path, 0, path.stat().st_size))])


def _tar_members(path: Path) -> Iterator[tuple[str, Member]]:
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                if info.isreg():
                    yield info.name, Member(path, info.offset_data, info.size)
    except tarfile.TarError as error:
        raise InputError(f"{path} is not a whole, uncompressed tar file ({error}).") from None
    if path.stat().st_size % tarfile.BLOCKSIZE:
        raise InputError(f"{path} is cut short: its size is no multiple of {tarfile.BLOCKSIZE} bytes.")


def group(members: Iterable[tuple[str, Member]], prefix: str = "") -> list[Sample]:
    """Join members that share a stem into samples, in the order in which their pictures appear.

    Hidden members are left out: some archivers add a `._name` beside each file.
    """
    pictures: dict[str, tuple[str, Member]] = {}
    sidecars: dict[tuple[str, str], Member] = {}
    for name, member in members:
        path = PurePosixPath(name.replace("\\", "/"))
        stem, suffix = str(path.with_suffix("")), path.suffix.lower()
        if path.name.startswith("."):
            continue
        if suffix in PICTURE_SUFFIXES:
            pictures.setdefault(stem, (name, member))
        elif suffix in SIDECAR_SUFFIXES:
            sidecars[stem, suffix] = member
    return [
        Sample(prefix + name, member, sidecars.get((stem, ".txt")), sidecars.get((stem, ".json")))
        for stem, (name, member) in pictures.items()
    ]
