"""What is known of the sources of a data set that is being built, and the report of it when it is.

Of each source there are a few bytes in memory, whatever was found: a text that comes again is kept once, and names are
looked up when they are asked for.
"""

from __future__ import annotations

from array import array
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tarfile import BLOCKSIZE

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
        for source, found in zip(_read("I", line["sources"]), _read("I", line["found"]), strict=True):
            problem.add(source, texts[found])
        return problem


Problems = dict[str, Problem]
"""By kind."""


@dataclass
class Findings:
    """What is known of sources that were dealt with: problems and, of those that were written, the marks of the picture
    and where it lies in its shard: at which block, and how many bytes."""

    left_out: Problems = field(default_factory=dict)
    notes: Problems = field(default_factory=dict)
    sources: array[int] = field(default_factory=lambda: array("I"))
    fingerprints: array[int] = field(default_factory=lambda: array("Q"))
    colours: array[int] = field(default_factory=lambda: array("I"))
    blocks: array[int] = field(default_factory=lambda: array("I"))
    sizes: array[int] = field(default_factory=lambda: array("I"))

    def refused(self, index: int, kind: str, found: str) -> None:
        """Count a source as left out."""
        self.left_out.setdefault(kind, Problem()).add(index, found)

    def written(self, index: int, marks: Marks, place: Member, notes: Mapping[str, str]) -> None:
        """Count a source as written."""
        for kind, found in notes.items():
            self.notes.setdefault(kind, Problem()).add(index, found)
        values = (index, marks.fingerprint, marks.colour, place.offset // BLOCKSIZE, place.size)
        for column, value in zip(self._columns(), values, strict=True):
            column.append(value)

    def extend(self, other: Findings) -> None:
        """Take in those of a further shard."""
        for own, more in ((self.left_out, other.left_out), (self.notes, other.notes)):
            for kind, problem in more.items():
                own.setdefault(kind, Problem()).extend(problem)
        for column, values in zip(self._columns(), other._columns(), strict=True):
            column.extend(values)

    def to_json(self) -> Line:
        """As a line of the journal has it."""
        problems = {
            key: {kind: problem.to_json() for kind, problem in kinds.items()}
            for key, kinds in (("left_out", self.left_out), ("notes", self.notes))
        }
        return {**problems, "pictures": list(map(_written, self._columns()))}

    @classmethod
    def from_json(cls, line: Line) -> Findings:
        """The inverse of `to_json`."""
        left_out, notes = (
            {kind: Problem.from_json(problem) for kind, problem in line[key].items()} for key in ("left_out", "notes")
        )
        columns = (_read(code, text) for code, text in zip("IQIII", line["pictures"], strict=True))
        return cls(left_out, notes, *columns)

    def picture(self, place: int, shard: Path) -> Member:
        """Where a picture lies that was written as number `place`, in this shard."""
        return Member(shard, self.blocks[place] * BLOCKSIZE, self.sizes[place])

    def _columns(self) -> tuple[array[int], ...]:
        return self.sources, self.fingerprints, self.colours, self.blocks, self.sizes


def _written(numbers: array[int]) -> str:
    return b64encode(np.asarray(numbers, dtype=f"<u{numbers.itemsize}").tobytes()).decode()


def _read(code: str, text: str) -> array[int]:
    numbers = array(code)
    numbers.extend(np.frombuffer(b64decode(text), dtype=f"<u{numbers.itemsize}").tolist())
    return numbers


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
