"""Hooks that are in place for a time."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Self

from torch.utils.hooks import RemovableHandle


class Hooks:
    """What hangs on modules until `remove`, or the end of a `with`."""

    def __init__(self, handles: Iterable[RemovableHandle]) -> None:
        self._handles = list(handles)

    def remove(self) -> None:
        """Take all of it away."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()
