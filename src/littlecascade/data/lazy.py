"""Sequences that make each item when it is asked for, and JSON of them that is written piece by piece."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar, overload

T = TypeVar("T")


class Lazy(Sequence[T]):
    """A sequence that has a length and an `item` for every index from 0 on; a slice of it is a list."""

    @abstractmethod
    def item(self, index: int) -> T:
        """The item with an index that is in range."""

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        places = range(len(self))[index]
        return [self.item(place) for place in places] if isinstance(places, range) else self.item(places)

    def __iter__(self) -> Iterator[T]:
        return map(self.item, range(len(self)))


class Made(Lazy[T]):
    """`count` items, each made of its index."""

    def __init__(self, count: int, make: Callable[[int], T]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    def item(self, index: int) -> T:
        """The item with an index that is in range."""
        return self._make(index)


def json_pieces(value: object, depth: int = 0) -> Iterator[str]:
    """A value as indented JSON, in pieces; sequences of any kind are lists.

    >>> "".join(json_pieces({"a": Made(2, lambda index: index)}))
    '{\\n "a": [\\n  0,\\n  1\\n ]\\n}'
    """
    match value:
        case Mapping():
            items = ((f"{json.dumps(str(key), ensure_ascii=False)}: ", entry) for key, entry in value.items())
            begin, end = "{}"
        case Sequence() if not isinstance(value, str):
            items = (("", entry) for entry in value)
            begin, end = "[]"
        case _:
            yield json.dumps(value, ensure_ascii=False)
            return
    yield begin
    if value:
        for number, (key, entry) in enumerate(items):
            yield f"{',' if number else ''}\n{' ' * (depth + 1)}{key}"
            yield from json_pieces(entry, depth + 1)
        yield "\n" + " " * depth
    yield end
