"""What is known of the sources of a data set that is being built, and the report of it when it is."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from littlecascade.data.likeness import near
from littlecascade.data.render import Marks
from littlecascade.data.shards import Done, Line

Problem = tuple[int, str, str]
"""The number of a source, the kind of problem, and what was found."""
Named = dict[str, list[tuple[str, str]]]
"""By kind of problem, the names of sources and what was found."""


@dataclass
class Findings:
    """What is known of sources that were dealt with: problems, and the marks of those that were written."""

    left_out: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    sources: array[int] = field(default_factory=lambda: array("Q"))
    fingerprints: array[int] = field(default_factory=lambda: array("Q"))
    colours: array[int] = field(default_factory=lambda: array("Q"))

    def written(self, index: int, marks: Marks, notes: dict[str, str]) -> None:
        """Count a source as written."""
        self.notes += [(index, kind, detail) for kind, detail in notes.items()]
        for column, value in zip(self._columns(), (index, marks.fingerprint, marks.colour), strict=True):
            column.append(value)

    def extend(self, other: Findings) -> None:
        """Take in those of a further shard."""
        self.left_out += other.left_out
        self.notes += other.notes
        for column, more in zip(self._columns(), other._columns(), strict=True):
            column.extend(more)

    def to_json(self) -> Line:
        """As a line of the journal has it."""
        marks = [column.tolist() for column in self._columns()]
        return {"left_out": self.left_out, "notes": self.notes, "marks": marks}

    @classmethod
    def from_json(cls, line: Line) -> Findings:
        """The inverse of `to_json`."""
        left_out, notes = ([(index, kind, text) for index, kind, text in line[key]] for key in ("left_out", "notes"))
        return cls(left_out, notes, *(array("Q", values) for values in line["marks"]))

    def copies(self) -> list[list[int]]:
        """Groups of sources that look alike."""
        groups = copies(self.fingerprints, self.colours)
        return [[self.sources[place] for place in group] for group in groups]

    def _columns(self) -> tuple[array[int], array[int], array[int]]:
        return self.sources, self.fingerprints, self.colours


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
    copies: list[list[str]]
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

    def to_json(self) -> Line:
        """The whole of it as values that JSON has."""
        problems = {
            key: {kind: [{"source": name, "detail": detail} for name, detail in found] for kind, found in group.items()}
            for key, group in (("left_out", self.left_out), ("notes", self.notes))
        }
        return {
            "source": self.source,
            "written": self.written,
            "bytes": self.bytes,
            "shards": [{"name": shard.name, "samples": shard.samples, "bytes": shard.bytes} for shard in self.shards],
            **problems,
            "look_alikes": self.copies,
            "rows_without_picture": self.unused,
            "settings": self.settings,
        }


def copies(fingerprints: Sequence[int], colours: Sequence[int]) -> list[list[int]]:
    """Groups of two or more positions of pictures that look alike, as `likeness.near` finds them, the lowest first.

    Colours are numbers: 0xRRGGBB.
    """
    channels = [(colour >> 16, colour >> 8 & 0xFF, colour & 0xFF) for colour in colours]
    return near(fingerprints, colours=channels)
