"""The real pictures and words that drawn emoji are compared with: what `recipes/emoji/build.py` wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from measures import Gallery, grey, small
from recolour import object_name
from torch import Tensor

from littlecascade.data.buckets import Buckets
from littlecascade.data.cache import PIXELS, Cache
from littlecascade.data.sources import find_samples
from littlecascade.data.table import Source

Item = TypeVar("Item")

CHUNK = 512  # pictures in memory at a time


@dataclass(frozen=True)
class Reference:
    """`training` and `held_out` are the shards' pictures; only recoloured ones are held out.

    groups: the names of every group. synonyms: a word that no caption holds, to the name that it means.
    """

    training: Cache
    held_out: Cache
    groups: Mapping[str, Sequence[str]]
    synonyms: Mapping[str, str]

    @classmethod
    def load(cls, data: Path, size: int) -> Reference:
        """Read the folder `data`; its pictures are decoded at size x size into the folder `cache` beside it."""
        places = (str(data / shards) for shards in ("train-*.tar", "heldout-*.tar"))
        training, held_out = (
            Cache(Source(place, find_samples(place), Buckets(size, multiple=1)), [PIXELS], data.parent / "cache")
            for place in places
        )
        groups: dict[str, list[str]] = {}
        for name, facts in json.loads((data / "names.json").read_text("utf-8")).items():
            groups.setdefault(facts["group"], []).append(name)
        synonyms = json.loads((data / "synonyms.json").read_text("utf-8"))
        return cls(training, held_out, groups, synonyms)

    def colour_gallery(self) -> Gallery:
        """Every picture that is as its artist coloured it, by its name."""
        rows = [row for row, facts in enumerate(fields(self.training)) if facts["colour"] is None]
        vectors = torch.cat([small(chunk) for chunk in _chunks(self.training, rows)])
        return Gallery.of(vectors, [self.training.rows[row].fields["name"] for row in rows])

    def grey_gallery(self) -> Gallery:
        """Every picture, recoloured and held-out ones too, without its hue, by its name without its colour."""
        caches = (self.training, self.held_out)
        vectors = [grey(small(chunk)) for cache in caches for chunk in _chunks(cache, range(len(cache)))]
        labels = [thing(facts["name"], facts["colour"]) for cache in caches for facts in fields(cache)]
        return Gallery.of(torch.cat(vectors), labels)

    def names(self, count: int) -> list[str]:
        """`count` names, each group's share of them as large as its share of all, evenly spaced within the group."""
        quotas = apportion({group: len(names) for group, names in self.groups.items()}, count)
        return [name for group, names in self.groups.items() for name in spaced(names, quotas[group])]

    def pictures_of(self, names: Sequence[str]) -> list[int]:
        """For each name the row of one of its pictures in `training`, so that the styles take turns."""
        rows: dict[str, list[int]] = {}
        for row, facts in enumerate(fields(self.training)):
            if facts["colour"] is None:
                rows.setdefault(facts["name"], []).append(row)
        ordered = [sorted(rows[name], key=lambda row: self.training.rows[row].fields["style"]) for name in names]
        return [own[turn % len(own)] for turn, own in enumerate(ordered)]

    def held_out_pairs(self, count: int) -> list[int]:
        """Rows of `held_out`, one for each of `count` pairs of colour and thing (fewer if there are fewer)."""
        pairs = {
            (facts["colour"], facts["name"]): row for row, facts in reversed(list(enumerate(fields(self.held_out))))
        }
        return [pairs[pair] for pair in spaced(sorted(pairs), min(count, len(pairs)))]


def thing(name: str, colour: str | None) -> str:
    """What a picture shows, whatever its colour.

    >>> thing("blue pizza", "blue"), thing("red apple", None), thing("pink", None)
    ('pizza', 'apple', 'pink')
    """
    return object_name(name.removeprefix(f"{colour} ")) or name


def apportion(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """`count` seats among parties of these sizes, by the largest remainder.

    >>> apportion({"a": 6, "b": 3, "c": 1}, 5)
    {'a': 3, 'b': 2, 'c': 0}
    """
    total = sum(sizes.values())
    seats = {name: size * count // total for name, size in sizes.items()}
    remainders = sorted(sizes, key=lambda name: -(sizes[name] * count % total))
    for name in remainders[: count - sum(seats.values())]:
        seats[name] += 1
    return seats


def spaced(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of the items, evenly spaced.

    >>> spaced("abcdef", 3)
    ['a', 'c', 'e']
    """
    return [items[number * len(items) // count] for number in range(count)]


def originals_of(cache: Cache, rows: Sequence[int]) -> Tensor:
    """The pictures of these rows, (N, 3, H, W) in [0, 1]."""
    return cache.column(PIXELS.name, rows)


def fields(cache: Cache) -> list[Mapping[str, Any]]:
    """What the data say of each picture."""
    return [row.fields for row in cache.rows]


def _chunks(cache: Cache, rows: Sequence[int]) -> Iterator[Tensor]:
    for start in range(0, len(rows), CHUNK):
        yield originals_of(cache, rows[start : start + CHUNK])
