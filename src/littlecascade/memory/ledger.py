"""How many bytes the tensors of a computation take, with or without data: every storage from its birth to its death."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

OTHER = "activations"
"""The kind of storages of which nothing else was said: what forward and backward make and drop."""


_DEVICE = torch.ops.prim.device.default  # which every look at a fake tensor's device is


@dataclass(frozen=True)
class Peak:
    """The most that was alive at once in a phase. bytes: by kind of storage."""

    phase: str
    bytes: Mapping[str, int]

    @property
    def total(self) -> int:
        """Of all kinds."""
        return sum(self.bytes.values())


class Ledger(TorchDispatchMode):
    """Within: counts the storages that torch makes. They die when the last tensor on them does, as their memory would.

    A storage has one kind, which `mark` may give it at any time of its life: the peak of a phase is told by the kinds
    that its storages ended with. counted: which tensors count. block: storages are rounded up to this many bytes.
    on_call: told of every operation that ran, with its arguments and its result. on_phase: of every phase that begins.

    What a kernel allocates for itself is not seen.
    """

    def __init__(
        self,
        counted: Callable[[Tensor], bool] = lambda tensor: True,
        block: int = 64,
        on_call: Callable[[Any, tuple[Any, ...], Mapping[str, Any], Any], None] | None = None,
        on_phase: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__()
        self.counted, self.block, self.on_call, self.on_phase = counted, block, on_call, on_phase
        self.peaks: list[Peak] = []
        self._numbers: dict[int, int] = {}  # of the storages that are alive, by their address
        self._sizes: list[int] = []  # by number
        self._kinds: list[str] = []
        self._events: list[int] = []  # numbers of storages, born, or ~number where they died
        self._watches: dict[int, Any] = {}
        self._kind = OTHER
        self._live = self._most = self._moment = 0

    @property
    def live(self) -> int:
        """Bytes that are alive now."""
        return self._live

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch asks it, and would wrap each call against a compiler: nothing is compiled here, and it takes long."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is _DEVICE:
            return getattr(args[0], "fake_device", None) or func(*args, **kwargs)
        result = func(*args, **kwargs)
        self.see(result)
        if self.on_call is not None:
            self.on_call(func, args, kwargs, result)
        return result

    def see(self, values: Any) -> None:
        """Count the storages of tensors, anywhere in `values`, that were not made by an operation within."""
        for value in (values,) if isinstance(values, Tensor) else tree_leaves(values):
            if isinstance(value, Tensor) and self.counted(value):
                self._number(value)

    def mark(self, kind: str, tensors: Iterable[Tensor]) -> None:
        """Say of what kind the storages of tensors are; those that are new are counted from now on."""
        for tensor in tensors:
            if self.counted(tensor):
                self._kinds[self._number(tensor)] = kind

    @contextmanager
    def kind(self, kind: str) -> Iterator[None]:
        """Within: storages that come about are of this kind."""
        before, self._kind = self._kind, kind
        yield
        self._kind = before

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Within: one phase, whose peak is appended to `peaks`."""
        if self.on_phase is not None:
            self.on_phase(name)
        present = set(self._numbers.values())
        self._events.clear()
        self._most, self._moment = self._live, 0
        yield
        for event in self._events[: self._moment]:
            if event >= 0:
                present.add(event)
            else:
                present.discard(~event)
        bytes: Counter[str] = Counter()
        for number in present:
            bytes[self._kinds[number]] += self._sizes[number]
        self.peaks.append(Peak(name, dict(bytes)))

    def _number(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address in self._numbers:
            return self._numbers[address]
        number = len(self._sizes)
        size = -(-storage.nbytes() // self.block) * self.block
        self._sizes.append(size)
        self._kinds.append(self._kind)
        self._numbers[address] = number
        self._watches[number] = weakref.ref(storage, partial(self._die, address, number))
        self._events.append(number)
        self._live += size
        if self._live > self._most:
            self._most, self._moment = self._live, len(self._events)
        return number

    def _die(self, address: int, number: int, _reference: object) -> None:
        del self._numbers[address], self._watches[number]
        self._events.append(~number)
        self._live -= self._sizes[number]
