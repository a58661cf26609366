"""Samples, and an index of many of them that takes some tens of bytes for each.

A sample is what shares a stem: `cat.jpg`, `cat.txt` (one caption a line, each an alternative), `cat.json` (any fields),
and `cat-masklabel.png` or `cat.mask.png`, which is white where the picture counts.
"""

from __future__ import annotations

import json
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from littlecascade.data.files import File, Names, names_of
from littlecascade.data.lazy import Lazy
from littlecascade.data.pipes import Pipe
from littlecascade.data.remote import RemoteFile
from littlecascade.data.tars import Entry
from littlecascade.errors import InputError

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif"})
SIDECAR_SUFFIXES = (".txt", ".json")
MASKS = ("-masklabel", ".mask")
"""How the stem of a mask ends, behind that of its picture."""
_NONE = -1  # where there is no such member

_Places = np.ndarray[Any, np.dtype[np.int32]]
_Keys = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Member:
    """A run of bytes: `size` bytes of `file`, starting at `offset`."""

    file: Path | RemoteFile
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes. Raises `InputError` where a server does not send them."""
        if isinstance(self.file, RemoteFile):
            return self.file.read(self.offset, self.size)
        with self.file.open("rb") as handle:
            handle.seek(self.offset)
            return handle.read(self.size)


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture with its captions and fields. `name` tells a person where it is."""

    name: str
    picture: Member
    text: Member | None = None
    fields: Member | None = None
    mask: Member | None = None

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


class Members(Lazy[Member]):
    """Members, and the names that they have in their folder or tar."""

    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)


class LooseFiles(Members):
    """Files, each the whole of a member."""

    def __init__(self, files: Sequence[File]) -> None:
        self.names, self._files = names_of(files), files

    def item(self, index: int) -> Member:
        """The item with an index that is in range."""
        file = self._files[index]
        if isinstance(file.path, Pipe):
            raise InputError(f"{str(file.path)!r} can only be read from end to end: write what it gives to a file.")
        return Member(file.path, 0, file.size)


class TarMembers(Members):
    """Members of one tar."""

    def __init__(self, file: Path | RemoteFile) -> None:
        self._file = file
        self.names = self._names = Names()
        self._offsets, self._sizes = array("Q"), array("Q")

    def append(self, entry: Entry) -> None:
        """Add one behind the others."""
        self._names.append(entry.name)
        self._offsets.append(entry.offset)
        self._sizes.append(entry.size)

    def item(self, index: int) -> Member:
        """The item with an index that is in range."""
        return Member(self._file, self._offsets[index], self._sizes[index])


class Group(Lazy[Sample]):
    """Members that share a stem, joined into samples, in the order in which their pictures appear.

    Of several pictures the first counts, of several captions the last. Hidden members are left out: some archivers add
    a `._name` beside each file. prefix: what the samples' names begin with.
    """

    def __init__(self, members: Members, prefix: str = "") -> None:
        self._members, self._prefix = members, prefix
        keys, places = _by_suffix(members.names)
        first = _firsts(keys[0])
        stems = keys[0][first]
        sidecars = (_last(*column, stems) for column in zip(keys[1:], places[1:], strict=True))
        self._pictures, (self._texts, self._fields, self._masks) = places[0][first], sidecars

    def __len__(self) -> int:
        return len(self._pictures)

    def item(self, index: int) -> Sample:
        """The item with an index that is in range."""
        columns = (self._texts, self._fields, self._masks)
        picture, *beside = (int(column[index]) for column in (self._pictures, *columns))
        name = self._prefix + self._members.names[picture]
        return Sample(name, self._members[picture], *map(self._sidecar, beside))

    def unused(self) -> Iterator[str]:
        """The names of the members that belong to no sample."""
        used = np.zeros(len(self._members) + 1, dtype=bool)  # the last for `_NONE`
        for places in (self._pictures, self._texts, self._fields, self._masks):
            used[places] = True
        return (self._prefix + self._members.names[place] for place in np.flatnonzero(~used[:-1]).tolist())

    def _sidecar(self, place: int) -> Member | None:
        return None if place == _NONE else self._members[place]


class Samples(Lazy[Sample]):
    """Several sequences of samples, one behind the other."""

    def __init__(self, parts: Sequence[Sequence[Sample]]) -> None:
        self._parts = [part for part in parts if len(part)]
        self._ends = list(accumulate(map(len, self._parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def item(self, index: int) -> Sample:
        """The item with an index that is in range."""
        part = bisect_right(self._ends, index)
        return self._parts[part][index - (self._ends[part - 1] if part else 0)]


def stem_and_suffix(name: str) -> tuple[str, str]:
    """A member's path without its suffix, and the suffix in lower case.

    >>> stem_and_suffix("deep\\\\a.b.JPG"), stem_and_suffix("./a"), stem_and_suffix("deep/.a")
    (('deep/a.b', '.jpg'), ('a', ''), ('deep/.a', ''))
    """
    path = name.replace("\\", "/")
    if "./" in path or "//" in path:
        path = str(PurePosixPath(path))
    start = path.rfind("/") + 1
    dot = path.rfind(".")
    return (path[:dot], path[dot:].lower()) if start < dot < len(path) - 1 else (path, "")


def is_hidden(name: str) -> bool:
    """Whether a member's name begins with a dot, or there is none.

    >>> is_hidden("deep/._a.jpg"), is_hidden("a.jpg")
    (True, False)
    """
    last = name.replace("\\", "/").rpartition("/")[2]
    return not last or last.startswith(".")


def masked(stem: str) -> str | None:
    """The stem of the picture whose mask has this one; None for what is no mask.

    >>> masked("deep/cat-masklabel"), masked("cat.mask"), masked("cat"), masked(".mask")
    ('deep/cat', 'cat', None, None)
    """
    found = (stem.removesuffix(ending) for ending in MASKS if stem.endswith(ending))
    own = next(found, "")
    return own if own and not own.endswith("/") else None


def _by_suffix(names: Sequence[str]) -> tuple[list[_Keys], list[_Places]]:
    """Of the pictures, texts, fields and masks, in their order: what stands for their stems, and their places."""
    mask = 1 + len(SIDECAR_SUFFIXES)
    kinds = dict.fromkeys(PICTURE_SUFFIXES, 0) | {suffix: kind for kind, suffix in enumerate(SIDECAR_SUFFIXES, 1)}

    def marked() -> Iterator[tuple[int, int]]:
        for name in names:
            stem, suffix = stem_and_suffix(name)
            kind = _NONE if is_hidden(name) else kinds.get(suffix, _NONE)
            if kind == 0 and (own := masked(stem)) is not None:
                stem, kind = own, mask
            # 64 bits of a hash: two of a million stems share them once in 10^7 times
            yield hash(stem), kind

    marks = np.fromiter(marked(), dtype=[("key", np.int64), ("kind", np.int8)], count=len(names))
    places = [np.flatnonzero(marks["kind"] == kind).astype(np.int32) for kind in range(mask + 1)]
    return [marks["key"][some] for some in places], places


def _firsts(keys: _Keys) -> _Places:
    """The place of the first of each key, in rising order; `np.unique` does it with twice the memory."""
    order = np.argsort(keys, kind="stable").astype(np.int32)
    ordered = keys[order]
    new = np.ones(len(keys), dtype=bool)
    new[1:] = ordered[1:] != ordered[:-1]
    first = order[new]
    first.sort()
    return first


def _last(keys: _Keys, places: _Places, wanted: _Keys) -> _Places:
    """For each wanted key, the place of the last that has it, or `_NONE`."""
    if not len(keys):
        return np.full(len(wanted), _NONE, dtype=np.int32)
    order = np.argsort(keys, kind="stable")
    found = np.searchsorted(keys, wanted, side="right", sorter=order) - 1
    last = order[found.clip(0)]
    return np.where(keys[last] == wanted, places[last], _NONE).astype(np.int32)
