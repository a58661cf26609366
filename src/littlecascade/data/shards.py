"""Writing tar shards that appear under their names when they are complete, and the journal of those that are.

The same samples make the same bytes, on any system: members have no owner and no time.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Self

from littlecascade.data.samples import Member
from littlecascade.errors import InputError
from littlecascade.folders import alone, make_folder

SHARD_SIZE = "10000"
"""Samples of a shard where nothing else is said."""
_NUMBERED = re.compile(r"\d{5,}\.tar")
_SHARD_SIZE = re.compile(r"\s*(\d+)\s*(?:([kmgt]?)b)?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Limit:
    """Where a shard ends: after so many samples, or before it has more bytes, or nowhere."""

    samples: int | None = None
    bytes: int | None = None

    @classmethod
    def parse(cls, text: str) -> Limit:
        """A number of samples, or of bytes with a unit. Raises `InputError`.

        >>> Limit.parse("1000"), Limit.parse("500 MB")
        (Limit(samples=1000, bytes=None), Limit(samples=None, bytes=500000000))
        """
        match = _SHARD_SIZE.fullmatch(text)
        if match is None or not int(match[1]):
            raise InputError(f"A shard of {text!r} is none: give a number of samples, as 1000, or of bytes, as 500MB.")
        if match[2] is None:
            return cls(samples=int(match[1]))
        return cls(bytes=int(match[1]) * 1000 ** " kmgt".index(match[2].lower() or " "))


@dataclass(frozen=True)
class Target:
    """Where shards are written: `path` is a tar file or, if their size has a limit, a folder of numbered ones."""

    path: Path
    limit: Limit = Limit()

    @classmethod
    def of(cls, path: Path, shard_size: str | None = None) -> Target:
        """A file if the name ends in `.tar`, else a folder of shards of this size. Raises `InputError`."""
        if path.suffix.lower() == ".tar":
            if shard_size is not None:
                raise InputError(f"'{path}' is one file: name a folder for shards of {shard_size}.")
            if path.is_dir():
                raise InputError(f"'{path}' is a folder: name a file.")
            return cls(path)
        if path.is_file():
            raise InputError(f"'{path}' is a file: name a folder, or a new file that ends in .tar.")
        return cls(path, Limit.parse(shard_size or SHARD_SIZE))

    @property
    def single(self) -> bool:
        """Whether all goes into one file."""
        return self.limit == Limit()

    def shard(self, number: int) -> Path:
        """The file of a shard."""
        return self.path if self.single else self.path / f"{number:05}.tar"

    def beside(self, name: str) -> Path:
        """A file that belongs to the shards."""
        return self.path.with_name(f"{self.path.stem}.{name}") if self.single else self.path / name

    @property
    def journal(self) -> Path:
        """The file that says which shards are complete; hidden."""
        visible = self.beside("build.jsonl")
        return visible.with_name(f".{visible.name}")

    def owns(self, file: object) -> bool:
        """Whether a file is one of the shards; what is no local path is not."""
        if not isinstance(file, Path):
            return False
        path = self.path.absolute()
        if self.single:
            return file.absolute() == path
        return file.absolute().parent == path and _NUMBERED.fullmatch(file.name) is not None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder, and within write into it alone.

        Raises `InputError` if that can't be, because it can't be written into or another build writes there.
        """
        make_folder(self.path.parent if self.single else self.path)
        with alone(self.journal.with_suffix(".lock"), f"Another build is writing '{self.path}'"):
            yield

    def clear(self) -> None:
        """Remove the shards that are there. A single file stays until another takes its place."""
        for path in (self.journal, *([] if self.single else self.shards())):
            path.unlink(missing_ok=True)

    def shards(self) -> list[Path]:
        """The shards that are there, complete or not of this build."""
        if self.single:
            return [self.path] if self.path.exists() else []
        return sorted(file for file in self.path.glob("*.tar") if self.owns(file))


@dataclass(frozen=True)
class Done:
    """A complete shard: its file's name, its samples, its bytes, and the number of the first source behind it."""

    name: str
    samples: int
    bytes: int
    end: int


class ShardWriter:
    """A tar file under a temporary name until `close`; as a context manager it removes what `close` did not finish."""

    def __init__(self, path: Path, limit: Limit) -> None:
        self.samples = 0
        self._path, self._limit = path, limit
        self._part = path.with_name(f".{path.name}.part")
        self._file = self._part.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._file.close()  # fails where the disk is full, and yet closes
        finally:
            self._part.unlink(missing_ok=True)

    def add(self, name: str, members: Mapping[str, bytes]) -> Member | None:
        """Write a sample's members, given by suffix. Returns where the first lies, or None if there was no room.

        The first sample always has.
        """
        written = [_member(f"{name}.{suffix}", content) for suffix, content in members.items()]
        if self.samples and not self._has_room(sum(map(len, written))):
            return None
        start = self._file.tell()
        self._file.writelines(written)
        self.samples += 1
        return Member(self._path, start + tarfile.BLOCKSIZE, len(next(iter(members.values()))))

    def close(self, end: int) -> Done:
        """Finish the file and give it its name. `end` is the number of the first source behind it."""
        size = _whole(self._file.tell())
        self._file.truncate(size)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._part.replace(self._path)
        return Done(self._path.name, self.samples, size, end)

    def _has_room(self, size: int) -> bool:
        if self._limit.samples is not None:
            return self.samples < self._limit.samples
        return self._limit.bytes is None or _whole(self._file.tell() + size) <= self._limit.bytes


def _member(name: str, content: bytes) -> bytes:
    """A file in a tar: its header, its bytes, and zeros up to the next block."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o644
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def _whole(size: int) -> int:
    """The size of a tar with so many bytes of members: two empty blocks end it, and it is a multiple of a record."""
    return -(-(size + 2 * tarfile.BLOCKSIZE) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


def write_whole(path: Path, pieces: Iterable[str]) -> None:
    """Write a text file under a temporary name, and rename it."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8", errors="replace", newline="\n") as handle:
        handle.writelines(pieces)
    part.replace(path)


Line = dict[str, Any]


class Journal:
    """What a build is of and, one line for each complete shard, the shard and what is known of its sources."""

    def __init__(self, target: Target, head: Line, done: Sequence[tuple[Done, Line]] = ()) -> None:
        """Begin it, with the shards that are kept."""
        self._path = target.journal
        lines = ({"shard": asdict(shard), **known} for shard, known in done)
        write_whole(self._path, chain.from_iterable(map(_line, chain([head], lines))))

    @staticmethod
    def read(target: Target) -> tuple[Line, list[tuple[Done, Line]]] | None:
        """The head, and the shards up to the first that is not there as it was written; None if there is no journal.

        A line that was cut short by a crash counts as not written.
        """
        lines = list(_json_lines(target.journal))
        if not lines:
            return None
        head = lines.pop(0)
        done: list[tuple[Done, Line]] = []
        for line in lines:
            shard = Done(**line.pop("shard"))
            path = target.shard(len(done))
            if not path.is_file() or path.stat().st_size != shard.bytes:
                break
            done.append((shard, line))
        return head, done

    def lines(self) -> Iterator[Line]:
        """What is known of the sources of each complete shard, read from the file one by one."""
        return islice(_json_lines(self._path), 1, None)

    def add(self, shard: Done, known: Line) -> None:
        """Note that a shard is complete."""
        with self._path.open("a", encoding="utf-8", newline="\n") as handle:
            handle.writelines(_line({"shard": asdict(shard), **known}))


def _line(values: Line) -> Iterator[str]:
    """In pieces, since a line has some hundred thousand letters."""
    yield from json.JSONEncoder().iterencode(values)
    yield "\n"


def _json_lines(path: Path) -> Iterator[Line]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as handle:
        for line in handle:
            try:
                yield json.loads(line)
            except ValueError:
                return
