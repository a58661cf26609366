"""What is known of the sources of a data set that is being built, and the report of it when it is.

Of each source there are a few bytes in memory, whatever was found: a text that comes again is kept once, and names are
looked up when they are asked for.
"""

from __future__ import annotations

from array import array
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tarfile import BLOCKSIZE
from typing import Any, ClassVar

import numpy as np

from littlecascade.data.lazy import Lazy, Made, json_pieces
from littlecascade.data.render import Marks
from littlecascade.data.samples import Member, Sample
from littlecascade.data.shards import Done, Line

Named = Mapping[str, Sequence[tuple[str, str]]]
"""By kind of problem, the names of sources and what was found."""


class Problem(Lazy[tuple[int, str]]):
    """The sources that have a problem of one kind: the number of each, and what was found."""

    def __init__(self) -> None:
        self._sources, self._found = array("I"), array("I")
        self._texts: dict[str, int] = {}
        self._order: list[str] = []

    def add(self, source: int, found: str) -> None:
        """Count one more."""
        if found not in self._texts:
            self._texts[found] = len(self._order)
            self._order.append(found)
        self._sources.append(source)
        self._found.append(self._texts[found])

    def extend(self, others: Sequence[tuple[int, str]]) -> None:
        """Count some more."""
        for source, found in others:
            self.add(source, found)

    def __len__(self) -> int:
        return len(self._sources)

    def item(self, index: int) -> tuple[int, str]:
        """The item with an index that is in range."""
        return self._sources[index], self._order[self._found[index]]

    def to_json(self) -> Line:
        """As a line of the journal has it."""
        return {"sources": _written(self._sources), "found": _written(self._found), "texts": self._order}

    @classmethod
    def from_json(cls, line: Line) -> Problem:
        """The inverse of `to_json`."""
        problem, texts = cls(), line["texts"]
        for source, found in zip(_read("I", line["sources"]).tolist(), _read("I", line["found"]).tolist(), strict=True):
            problem.add(source, texts[found])
        return problem


Problems = dict[str, Problem]
"""By kind."""


class Pictures:
    """Those that were written, in columns: the number of each one's source, its marks, and where it lies in its shard,
    from which block on and how many bytes."""

    COLUMNS: ClassVar = {"source": "I", "fingerprint": "Q", "colour": "I", "block": "I", "size": "I"}

    def __init__(self) -> None:
        self._columns = [array(code) for code in self.COLUMNS.values()]

    def add(self, source: int, marks: Marks, place: Member) -> None:
        """Count one more."""
        values = (source, marks.fingerprint, marks.colour, place.offset // BLOCKSIZE, place.size)
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)

    def to_json(self) -> Line:
        """As a line of the journal has them."""
        return dict(zip(self.COLUMNS, map(_written, self._columns), strict=True))

    @classmethod
    def column(cls, name: str, count: int, lines: Iterable[Line]) -> np.ndarray[Any, Any]:
        """A column of `count` pictures, out of what `to_json` gave of each shard."""
        column = np.empty(count, dtype=cls.COLUMNS[name])
        start = 0
        for line in lines:
            values = _read(column.dtype.char, line[name])
            column[start : start + len(values)] = values
            start += len(values)
        return column


@dataclass
class Findings:
    """What is known of sources that were dealt with: problems, and the pictures that were written of one shard."""

    left_out: Problems = field(default_factory=dict)
    notes: Problems = field(default_factory=dict)
    pictures: Pictures = field(default_factory=Pictures)

    def refused(self, index: int, kind: str, found: str) -> None:
        """Count a source as left out."""
        self.left_out.setdefault(kind, Problem()).add(index, found)

    def written(self, index: int, marks: Marks, place: Member, notes: Mapping[str, str]) -> None:
        """Count a source as written."""
        for kind, found in notes.items():
            self.notes.setdefault(kind, Problem()).add(index, found)
        self.pictures.add(index, marks, place)

    def extend(self, other: Findings) -> None:
        """Take in the problems of a further shard. Its pictures are left to the journal."""
        for own, more in ((self.left_out, other.left_out), (self.notes, other.notes)):
            for kind, problem in more.items():
                own.setdefault(kind, Problem()).extend(problem)

    def to_json(self) -> Line:
        """As a line of the journal has it."""
        problems = {
            key: {kind: problem.to_json() for kind, problem in kinds.items()}
            for key, kinds in (("left_out", self.left_out), ("notes", self.notes))
        }
        return {**problems, "pictures": self.pictures.to_json()}

    @classmethod
    def from_json(cls, line: Line) -> Findings:
        """The inverse of `to_json`, but for the pictures."""
        left_out, notes = (
            {kind: Problem.from_json(problem) for kind, problem in line[key].items()} for key in ("left_out", "notes")
        )
        return cls(left_out, notes)


def _written(numbers: array[int]) -> str:
    return b64encode(np.asarray(numbers, dtype=f"<u{numbers.itemsize}").tobytes()).decode()


def _read(code: str, text: str) -> np.ndarray[Any, Any]:
    return np.frombuffer(b64decode(text), dtype=np.dtype(code).newbyteorder("<"))


def named(problems: Problems, samples: Sequence[Sample]) -> Named:
    """Problems with the names of their sources."""
    return {kind: _with_names(problem, samples) for kind, problem in problems.items()}


def _with_names(problem: Problem, samples: Sequence[Sample]) -> Sequence[tuple[str, str]]:
    def told(index: int) -> tuple[str, str]:
        source, found = problem[index]
        return samples[source].name, found

    return Made(len(problem), told)


@dataclass(frozen=True)
class Report:
    """What was written where, and what was not. Problems are (source, what was found) by kind, sources by name.

    copies: groups of sources that look alike and are all in the data set. kept: how many of the shards were there
    before. unused: rows of the table of captions that name no picture.
    """

    source: str
    settings: Line
    shards: list[Done]
    kept: int
    left_out: Named
    notes: Named
    copies: Sequence[Sequence[str]]
    unused: list[str]
    path: Path

    @property
    def written(self) -> int:
        """How many pictures are in the shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def bytes(self) -> int:
        """The size of all shards."""
        return sum(shard.bytes for shard in self.shards)

    def json(self) -> Iterator[str]:
        """The whole of it as JSON, in pieces."""
        return json_pieces(
            {
                "source": self.source,
                "written": self.written,
                "bytes": self.bytes,
                "shards": [
                    {"name": shard.name, "samples": shard.samples, "bytes": shard.bytes} for shard in self.shards
                ],
                "left_out": {kind: _records(found) for kind, found in self.left_out.items()},
                "notes": {kind: _records(found) for kind, found in self.notes.items()},
                "look_alikes": self.copies,
                "rows_without_picture": self.unused,
                "settings": self.settings,
            }
        )


def _records(found: Sequence[tuple[str, str]]) -> Sequence[Mapping[str, str]]:
    return Made(len(found), lambda index: dict(zip(("source", "detail"), found[index], strict=True)))
