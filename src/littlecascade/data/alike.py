"""Which of many pictures are copies of one another: re-encoded, resized, lightened or slightly cropped.

Two looks at each: fingerprints and mean colours, which are kept of all pictures, say which pairs are worth comparing;
then small versions of those two pictures are compared, so that icons of one shape are not taken for one another.
"""

from __future__ import annotations

import io
import tempfile
import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import combinations, islice
from typing import Any

import numpy as np
from PIL import Image

from littlecascade.data.likeness import BITS, SMALL_SHAPE, Small, difference, small
from littlecascade.data.pictures import to_rgb
from littlecascade.data.samples import Member

DISTANCE = 8
"""Bits in which the fingerprints of copies differ at the most: more than 90 % of those that were cropped by 2 % of
each side do."""
DIFFERENCE = 8.0
"""The `likeness.difference` of two pictures up to which they count as copies.

Of 15,532 icons 223 are as near as that to an earlier one, 173 of them under another name ("man pilot", "pilot"). Of 17
photographs, copies that were encoded anew, resized, lightened by 15 % or cropped by 2 % of each side all are
(`benchmarks/look_alikes.py`).
"""
_TINT = 8  # levels by which a channel of the mean colour may be off, once both are equally bright
_BRIGHTER = 1.35  # times that a copy may be as bright
_NONE = -1  # where there is no further one
_MOST = 64  # pictures that one is compared with

_HALF = np.uint64(32)  # bits
_AT_ONCE = 1 << 14  # hashes that are looked at, and pairs that are sorted, together

_Hashes = np.ndarray[Any, np.dtype[np.uint64]]
_Colours = _Numbers = np.ndarray[Any, np.dtype[np.uint32]]
_Flags = np.ndarray[Any, np.dtype[np.bool_]]


def alike(
    fingerprints: Sequence[int] | _Hashes, colours: Sequence[int] | _Colours, same: Callable[[int, int], bool]
) -> Iterator[list[int]]:
    """Groups of two or more indices of pictures that are copies of the first of their group, in rising order.

    fingerprints, colours: what `likeness` says of each picture. same: whether two pictures are copies; it is only asked
    about those that may be.
    """
    if not len(fingerprints):
        return
    hashes, tints = np.asarray(fingerprints, np.uint64), np.asarray(colours, np.uint32)
    kind_of, kinds = _kinds(hashes, tints)
    near = _Neighbours(_close_pairs(hashes, tints, kinds, DISTANCE))
    doubtful = np.ones(len(hashes), dtype=bool)
    doubtful[kinds] = False  # unlike those that are of the kind of an earlier one
    doubtful[kind_of[doubtful]] = True
    doubtful[near.kinds] = True
    firsts = _Chains(len(hashes))  # of the groups, by the kind of their first member
    groups: dict[int, array[int]] = {}
    for index in np.flatnonzero(doubtful).tolist():
        kind = int(kind_of[index])
        candidates = (first for other in (kind, *near.of(kind)) for first in firsts.of(other))
        found = next((first for first in islice(candidates, _MOST) if same(first, index)), None)
        if found is None:
            firsts.add(kind, index)
        else:
            groups.setdefault(found, array("I", [found])).append(index)
    yield from (groups[first].tolist() for first in sorted(groups))


class _Chains:
    """Indices by kind, the newest first, in arrays: so many lists would take much memory."""

    def __init__(self, indices: int) -> None:
        self._newest, self._before = (np.full(indices, _NONE, np.int32) for _ in range(2))

    def add(self, kind: int, index: int) -> None:
        self._before[index], self._newest[kind] = self._newest[kind], index

    def of(self, kind: int) -> Iterator[int]:
        index = int(self._newest[kind])
        while index != _NONE:
            yield index
            index = int(self._before[index])


def _kinds(hashes: _Hashes, colours: _Colours) -> tuple[_Numbers, _Numbers]:
    """Of each picture the first that has its hash and its colour, which stands for their kind; and those firsts."""
    order = np.lexsort((colours, hashes)).astype(np.uint32)
    new = np.zeros(len(order), dtype=bool)
    new[:1] = True
    for ordered in (hashes[order], colours[order]):
        new[1:] |= ordered[1:] != ordered[:-1]
    kind_of = np.empty(len(order), dtype=np.uint32)
    firsts = order[new]
    kind_of[order] = firsts[np.cumsum(new, dtype=np.uint32) - np.uint32(1)]
    return kind_of, firsts


class _Neighbours:
    """Of each kind the others that are near, out of pairs that may come more than once."""

    def __init__(self, pairs: Iterable[tuple[_Numbers, _Numbers]]) -> None:
        found, waiting = np.empty(0, np.uint64), list[_Hashes]()
        for one, other in pairs:
            lower, upper = np.minimum(one, other), np.maximum(one, other)
            waiting.append(lower.astype(np.uint64) << _HALF | upper)
            if sum(map(len, waiting)) > max(_AT_ONCE, len(found) // 4):
                found, waiting = np.unique(np.concatenate([found, *waiting])), []
        found = np.unique(np.concatenate([found, *waiting]))
        found = np.concatenate([found, found << _HALF | found >> _HALF])
        found.sort()
        self.kinds, self._others = (found >> _HALF).astype(np.uint32), found.astype(np.uint32)

    def of(self, kind: int) -> list[int]:
        """Those that are near, in rising order."""
        start, end = (int(np.searchsorted(self.kinds, np.uint32(kind), side)) for side in ("left", "right"))
        return self._others[start:end].tolist()


class Comparison:
    """Whether two pictures are copies. Each is decoded when it is first asked about; a file keeps the results.

    It is a context manager, which removes the file. A picture that can't be read is a copy of none.
    """

    def __init__(self, pictures: Sequence[Member]) -> None:
        self._pictures = pictures
        self._places: dict[int, int | None] = {}
        with ExitStack() as stack:
            self._file = stack.enter_context(tempfile.TemporaryFile())
            self._stack = stack.pop_all()

    def __enter__(self) -> Comparison:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, one: int, other: int) -> bool:
        """Whether the pictures with these indices are copies."""
        first, second = self._small(one), self._small(other)
        return first is not None and second is not None and difference(first, second) <= DIFFERENCE

    def _small(self, index: int) -> Small | None:
        size = int(np.prod(SMALL_SHAPE))
        if index not in self._places:
            made = _decoded(self._pictures[index])
            self._places[index] = None if made is None else self._file.seek(0, io.SEEK_END)
            if made is not None:
                self._file.write(made.tobytes())
        place = self._places[index]
        if place is None:
            return None
        self._file.seek(place)
        return np.frombuffer(self._file.read(size), dtype=np.uint8).reshape(SMALL_SHAPE)


def _decoded(picture: Member) -> Small | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of them was told before
            with Image.open(io.BytesIO(picture.read())) as opened:
                opened.draft(None, (2 * SMALL_SHAPE[1], 2 * SMALL_SHAPE[0]))
                return small(to_rgb(opened))
    except Exception:  # a broken file makes Pillow's decoders raise almost anything, and a server may be gone
        return None


def _close_pairs(
    hashes: _Hashes, colours: _Colours, chosen: _Numbers, distance: int
) -> Iterator[tuple[_Numbers, _Numbers]]:
    """Pairs of the chosen whose hashes are at most `distance` bits apart, and of about the same colour.

    Some come more than once.

    The bits are dealt out to distance + 2 blocks. Differing bits can spoil `distance` of them at the most, so that such
    a pair has two equal blocks: only hashes that share two blocks are compared.
    """
    blocks = distance + 2
    masks = [sum(1 << bit for bit in range(block, BITS, blocks)) for block in range(blocks)]
    for one, other in combinations(masks, 2):
        mask = np.uint64(one | other)
        order = chosen[np.argsort(hashes[chosen] & mask)]
        for start in range(0, len(order), _AT_ONCE):
            step, places = 1, np.arange(start, min(start + _AT_ONCE, len(order)), dtype=np.uint32)
            while len(places := places[places < len(order) - step]):
                first, second = order[places], order[places + step]
                differences = hashes[first] ^ hashes[second]
                shared = differences & mask == 0
                close = shared & _within(differences, distance)
                close[close] = _of_one_colour(colours[first[close]], colours[second[close]])
                if close.any():
                    yield first[close], second[close]
                places, step = places[shared], step + 1


def _within(differences: _Hashes, distance: int) -> _Flags:
    """Whether each number has at most `distance` bits set."""
    for _ in range(distance):
        differences = differences & (differences - np.uint64(1))  # clears the lowest bit
    return differences == 0


def _of_one_colour(one: _Colours, other: _Colours) -> _Flags:
    """Whether colours (0xRRGGBB) are about the same, one of them perhaps brighter."""
    first, second = (colours[..., None] >> np.array([16, 8, 0], np.uint32) & 255 for colours in (one, other))
    brighter = (first.sum(-1, keepdims=True) + 1) / (second.sum(-1, keepdims=True) + 1)
    tint = np.abs(first - brighter * second).max(-1)
    return (tint <= _TINT) & (np.abs(np.log(brighter[..., 0])) <= np.log(_BRIGHTER))
