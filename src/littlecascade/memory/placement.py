"""In which number format a cascade draws, and which of its networks are on the device at once: as memory allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import torch

from littlecascade.errors import InputError, suggest
from littlecascade.memory.measure import free_memory
from littlecascade.memory.precision import choose_dtype
from littlecascade.memory.residence import Residence

PRECISIONS = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.01}
"""The number formats of Stage B and C and of the towers, and bytes for each of their parameters."""

OFFLOADS = ("none", "stage", "block")
"""What is on the device: every network that was used, the one at work, or the block at work."""

LARGE = 200_000_000
"""Parameters of all networks above which a cascade needs care for the memory that it takes."""

SHARE = 0.9
"""How much of what is free may be used."""

WORK = 0.65 * 2**30
"""Bytes that computing takes beside the weights in two bytes a value at 1024 x 1024, measured: benchmarks/memory.py."""


@dataclass(frozen=True)
class Machine:
    """What draws. free: bytes of memory. bfloat16: whether it is good at that."""

    device: torch.device
    free: float
    bfloat16: bool

    @classmethod
    def of(cls, device: torch.device) -> Self:
        """What this machine has, right now."""
        return cls(device, free_memory(device), choose_dtype("auto", device) == torch.bfloat16)

    @property
    def gpu(self) -> bool:
        """Whether its memory is a GPU's."""
        return self.device.type == "cuda"


@dataclass(frozen=True)
class Placement:
    """precision: a key of `PRECISIONS`. offload: one of `OFFLOADS`. need: about how many bytes drawing takes.

    dtype: what is computed in; for `int8` that of the weights while they are used.
    """

    device: torch.device
    precision: str
    offload: str
    dtype: torch.dtype
    need: float
    free: float

    @property
    def large(self) -> Residence:
        """Of Stage B and C and of the towers."""
        packing = "int8" if self.precision == "int8" else None
        return Residence(self.device, self.dtype, packing, streamed=self.offload == "block")

    @property
    def small(self) -> Residence:
        """Of Stage A, the compressor and the previewer, which are not made for float16 and can do without."""
        return Residence(self.device, torch.float32 if self.dtype == torch.float16 else self.dtype)

    @property
    def fits(self) -> bool:
        """Whether it is known to fit."""
        return self.need <= SHARE * self.free

    def __str__(self) -> str:
        kept = {"none": "all networks stay", "stage": "one network at a time", "block": "one block at a time"}
        least = "" if self.fits else ", which may not do"
        return (
            f"{self.precision} on {self.device}, {kept[self.offload]}: about {_gib(self.need)} of the "
            f"{_gib(self.free)} that are free{least}"
        )


def choose(
    machine: Machine, parameters: Mapping[str, int], side: int, *, precision: str = "auto", offload: str = "auto"
) -> Placement:
    """The best way to draw that fits, or the one that takes the least if none does.

    parameters: of each network. side: in pixels, of the square that the model draws at its best.
    `auto` leaves a choice open, everything else is obeyed. In the order of preference: the format that is quickest with
    nothing lost, all networks kept if they are small or on a GPU; one at a time; 8 bits; block by block.
    Raises `InputError` for an unknown name.
    """
    _check("precision", precision, ("auto", *PRECISIONS))
    _check("offload", offload, ("auto", *OFFLOADS))
    total = sum(parameters.values())
    ways = [
        way for way in _preferences(machine, total) if precision in ("auto", way[0]) and offload in ("auto", way[1])
    ]
    if not ways:
        best = _quickest(machine, total) if precision == "auto" else precision
        ways = [(best, way) for way in OFFLOADS if offload in ("auto", way)]
    options = [_placement(machine, *way, parameters, side) for way in ways]
    return next((option for option in options if option.fits), min(options, key=lambda option: option.need))


def _preferences(machine: Machine, parameters: int) -> Iterator[tuple[str, str]]:
    """Precision and offload, the best first."""
    best = _quickest(machine, parameters)
    if machine.gpu or parameters < LARGE:
        yield best, "none"
    yield from ((best, "stage"), ("int8", "stage"), (best, "block"))
    if machine.gpu:
        yield "int8", "block"


def _quickest(machine: Machine, parameters: int) -> str:
    """The format to draw in without losing anything that shows."""
    if machine.gpu:
        return "bfloat16" if machine.bfloat16 else "float16"
    if parameters < LARGE:
        return "float32"
    wide = PRECISIONS["float32"] * parameters <= SHARE * machine.free
    return "float32" if wide and not machine.bfloat16 else "bfloat16"


def _placement(machine: Machine, precision: str, offload: str, parameters: Mapping[str, int], side: int) -> Placement:
    total = sum(parameters.values())
    if precision != "int8":
        dtype = getattr(torch, precision)
    elif machine.bfloat16 and (machine.gpu or total >= LARGE):
        dtype = torch.bfloat16
    else:
        dtype = torch.float16 if machine.gpu else torch.float32
    weights = [PRECISIONS[precision] * count for count in parameters.values()] or [0.0]
    streamed = offload == "block" and (machine.gpu or precision != "int8")  # a CPU keeps 8 bits in any case
    resident = sum(weights) if offload == "none" else max(weights) / 8 if streamed else max(weights)
    work = WORK * dtype.itemsize / 2 * (side / 1024) ** 2
    return Placement(machine.device, precision, offload, dtype, resident + work, machine.free)


def _check(what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise InputError(f"Unknown {what} {name!r}; there are {', '.join(known)}.{suggest(name, known)}")


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
