"""Two-way mappings between the official names of tensors and those of another format."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from littlecascade.checkpoint.lazy import LazyTensors

_IGNORED = ("logit_scale", ".position_ids")
"""Endings of what some programs store beside a CLIP tower and no network needs."""


@dataclass(frozen=True)
class Naming:
    """How one format names the tensors of one network.

    marks: names, or endings that begin with a dot, that occur in every such file and tell it from others; they stand
    after `prefix`. only: what its names begin with, if other networks' begin otherwise. renamed: pairs of parts of a
    name, official and foreign. split: the ending of an official tensor, and those of the three that its rows are cut
    into. Read and never written are also_split, likewise, and transposed: official name and foreign name of a matrix
    that is stored transposed.
    """

    marks: tuple[str, ...]
    prefix: str = ""
    only: tuple[str, ...] = ("",)
    renamed: tuple[tuple[str, str], ...] = ()
    split: tuple[tuple[str, tuple[str, str, str]], ...] = ()
    also_split: tuple[tuple[str, tuple[str, str, str]], ...] = ()
    transposed: tuple[str, str] | None = None

    def fits(self, names: Iterable[str]) -> bool:
        """Whether a file with tensors of these names holds the network."""
        own = [name.removeprefix(self.prefix) for name in names if name.startswith(self.prefix)]
        return all(any(name == mark or (mark[0] == "." and name.endswith(mark)) for name in own) for mark in self.marks)

    def decode(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The network's tensors in a file, under official names; those of other networks are left out."""
        pieces: dict[str, dict[int, str]] = defaultdict(dict)
        turned: set[str] = set()
        for name in tensors:
            short = name.removeprefix(self.prefix)
            if not name.startswith(self.prefix) or not short.startswith(self.only) or name.endswith(_IGNORED):
                continue
            official, place = self._official(short)
            pieces[official][place] = name
            if self.transposed and short == self.transposed[1]:
                turned.add(official)
        return LazyTensors(
            {
                official: partial(_join, tensors, [names[place] for place in sorted(names)], official in turned)
                for official, names in pieces.items()
            }
        )

    def encode(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Tensors under official names as this format has them."""
        makers = {}
        for name in tensors:
            for ending, thirds in self.split:
                if name.endswith(ending):
                    stem = self.prefix + self._foreign(name.removesuffix(ending))
                    makers |= {stem + third: partial(_cut, tensors, name, i) for i, third in enumerate(thirds)}
                    break
            else:
                makers[self.prefix + self._foreign(name)] = partial(tensors.__getitem__, name)
        return LazyTensors(makers)

    def _official(self, name: str) -> tuple[str, int]:
        """The official name, and which third of that tensor the foreign one is."""
        if self.transposed and name == self.transposed[1]:
            return self.transposed[0], 0
        for ending, thirds in (*self.split, *self.also_split):
            for place, third in enumerate(thirds):
                if name.endswith(third):
                    return name.removesuffix(third) + ending, place
        for official, foreign in self.renamed:
            name = name.replace(foreign, official)
        return name, 0

    def _foreign(self, name: str) -> str:
        for official, foreign in self.renamed:
            name = name.replace(official, foreign)
        return name


def _join(tensors: Mapping[str, Tensor], names: list[str], turned: bool) -> Tensor:
    pieces = [tensors[name] for name in names]
    joined = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return joined.T if turned else joined


def _cut(tensors: Mapping[str, Tensor], name: str, place: int) -> Tensor:
    return tensors[name].chunk(3)[place]
