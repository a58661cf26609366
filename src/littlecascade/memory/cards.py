"""Graphics cards by name: their memory, what they can compute in, and how fast at best.

The figures are those of NVIDIA's white papers and data sheets: memory in GB (which are GiB on a card), bandwidth in
GB/s, and dense TFLOP/s of float32 and of 16-bit products that are summed up in float32.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Self

import torch

from littlecascade.errors import InputError, suggest

GIB = 2**30

CONTEXT = {"pascal": 0.35, "volta": 0.4, "turing": 0.4, "ampere": 0.45, "ada": 0.5, "hopper": 0.6, "blackwell": 0.6}
"""GiB that CUDA, its kernels and the workspaces of its libraries take, by architecture: an assumption, on the high side
of what users report for PyTorch; no card was measured here."""

CAPABILITIES = {
    (6, 0): "pascal",
    (7, 0): "volta",
    (7, 5): "turing",
    (8, 0): "ampere",
    (8, 9): "ada",
    (9, 0): "hopper",
    (10, 0): "blackwell",
}
"""Architectures by the compute capability that they begin with."""


@dataclass(frozen=True)
class Card:
    """memory: bytes. bandwidth: bytes/s. single, half: FLOP/s in float32 and in 16 bits.

    known: whether rates are the card's own, or those of a usual one of its architecture.
    """

    name: str
    memory: float
    architecture: str
    single: float
    half: float
    bandwidth: float
    known: bool = True

    @property
    def bfloat16(self) -> bool:
        """Whether it computes in bfloat16 by itself."""
        return self.architecture not in ("pascal", "volta", "turing")

    @property
    def context(self) -> float:
        """Bytes that are taken before the first tensor."""
        return CONTEXT[self.architecture] * GIB

    @classmethod
    def here(cls) -> Self:
        """The first card of this machine."""
        about = torch.cuda.get_device_properties(0)
        found = find_card(f"{about.total_memory / GIB:.2f}GB,{_architecture((about.major, about.minor))}")
        known = CARDS.get(_key(about.name))
        rates = {} if known is None else {name: getattr(known, name) for name in ("single", "half", "bandwidth")}
        return replace(found, name=about.name, memory=float(about.total_memory), known=known is not None, **rates)  # pyright: ignore


_TABLE = """
GTX 1050 Ti         4 pascal     2.1   2.1  112
GTX 1060            6 pascal     4.4   4.4  192
GTX 1060 3GB        3 pascal     3.9   3.9  192
GTX 1070            8 pascal     6.5   6.5  256
GTX 1070 Ti         8 pascal     8.2   8.2  256
GTX 1080            8 pascal     8.9   8.9  320
GTX 1080 Ti        11 pascal    11.3  11.3  484
TITAN Xp           12 pascal    12.1  12.1  548
Tesla P40          24 pascal    11.8  11.8  347
Tesla P100         16 pascal     9.3  18.7  732
TITAN V            12 volta     14.9 110    653
Tesla V100         16 volta     15.7 125    900
Tesla V100 32GB    32 volta     15.7 125    900
GTX 1650            4 turing     3.0   6.0  128
GTX 1660            6 turing     5.0  10.0  192
GTX 1660 SUPER      6 turing     5.0  10.0  336
GTX 1660 Ti         6 turing     5.4  10.9  288
RTX 2060            6 turing     6.5  25.8  336
RTX 2060 12GB      12 turing     7.2  28.7  336
RTX 2060 SUPER      8 turing     7.2  28.7  448
RTX 2070            8 turing     7.5  29.9  448
RTX 2070 SUPER      8 turing     9.1  36.3  448
RTX 2080            8 turing    10.1  40.3  448
RTX 2080 SUPER      8 turing    11.2  44.6  496
RTX 2080 Ti        11 turing    13.4  53.8  616
TITAN RTX          24 turing    16.3 130.5  672
Quadro RTX 6000    24 turing    16.3 130.5  672
Quadro RTX 8000    48 turing    16.3 130.5  672
Tesla T4           16 turing     8.1  65    320
RTX 3050            8 ampere     9.1  18.2  224
RTX 3060           12 ampere    12.7  25.6  360
RTX 3060 Ti         8 ampere    16.2  32.5  448
RTX 3070            8 ampere    20.3  40.6  448
RTX 3070 Ti         8 ampere    21.7  43.5  608
RTX 3080           10 ampere    29.8  59.5  760
RTX 3080 12GB      12 ampere    30.6  61.3  912
RTX 3080 Ti        12 ampere    34.1  68.2  912
RTX 3090           24 ampere    35.6  71   936
RTX 3090 Ti        24 ampere    40.0  80  1008
RTX A4000          16 ampere    19.2  76.7  448
RTX A5000          24 ampere    27.8 111    768
RTX A6000          48 ampere    38.7 154.8  768
A10                24 ampere    31.2 125    600
A30                24 ampere    10.3 165    933
A40                48 ampere    37.4 149.7  696
A100 40GB          40 ampere    19.5 312   1555
A100 80GB          80 ampere    19.5 312   2039
RTX 4060            8 ada       15.1  30.2  272
RTX 4060 Ti         8 ada       22.1  44.1  288
RTX 4060 Ti 16GB   16 ada       22.1  44.1  288
RTX 4070           12 ada       29.1  58.3  504
RTX 4070 SUPER     12 ada       35.5  71    504
RTX 4070 Ti        12 ada       40.1  80.2  504
RTX 4070 Ti SUPER  16 ada       44.1  88.2  672
RTX 4080           16 ada       48.7  97.5  717
RTX 4080 SUPER     16 ada       52.2 104.4  736
RTX 4090           24 ada       82.6 165.2 1008
RTX 6000 Ada       48 ada       91.1 364.2  960
L4                 24 ada       30.3 121    300
L40                48 ada       90.5 181    864
L40S               48 ada       91.6 362    864
H100               80 hopper    67   989   3350
H100 PCIe          80 hopper    51   756   2039
H200              141 hopper    67   989   4800
RTX 5050            8 blackwell 13.2  26.3  320
RTX 5060            8 blackwell 19.2  38.4  448
RTX 5060 Ti         8 blackwell 23.7  47.4  448
RTX 5060 Ti 16GB   16 blackwell 23.7  47.4  448
RTX 5070           12 blackwell 30.9  61.7  672
RTX 5070 Ti        16 blackwell 43.9  87.9  896
RTX 5080           16 blackwell 56.3 112.6  960
RTX 5090           32 blackwell 104.8 209.5 1792
RTX PRO 6000       96 blackwell 126  503.8 1792
B200              180 blackwell 75  2250   7700
"""


def _rows() -> dict[str, Card]:
    cards: dict[str, Card] = {}
    for line in _TABLE.strip().splitlines():
        *words, memory, architecture, single, half, bandwidth = line.split()
        rates = (1e12 * float(single), 1e12 * float(half), 1e9 * float(bandwidth))
        card = Card(" ".join(words), float(memory) * GIB, architecture, *rates)
        cards[_key(card.name)] = card
    return cards


def _key(name: str) -> str:
    """A name as it is looked up: no maker, no case, no spaces."""
    return re.sub(r"[^a-z0-9]|nvidia|geforce|tesla|laptop|gpu", "", name.lower())


CARDS = _rows()
"""By their names without spaces, in small letters."""

_USUAL = {
    "pascal": "GTX 1070",
    "volta": "Tesla V100",
    "turing": "RTX 2070",
    "ampere": "RTX 3060",
    "ada": "RTX 4060 Ti",
    "hopper": "H100",
    "blackwell": "RTX 5060 Ti",
}
"""The card whose rates stand for those of others of its architecture."""


def find_card(text: str) -> Card:
    """A card by its name, or by memory and architecture, such as `11GB,turing`. Raises `InputError` for another text.

    >>> find_card("NVIDIA GeForce RTX 2080 Ti").memory / 2**30
    11.0
    >>> find_card("6 GB, ampere").bfloat16
    True
    """
    if (card := CARDS.get(_key(text))) is not None:
        return card
    given = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*gi?b\s*(?:,\s*(\w+)\s*)?", text, re.IGNORECASE)
    names = [card.name for card in CARDS.values()]
    if given is None:
        raise InputError(
            f"Unknown card {text!r}.{suggest(text, names)} Give a name such as 'RTX 3060', or memory and architecture "
            f"such as '11GB,turing' ({', '.join(CONTEXT)})."
        )
    memory, architecture = float(given[1]) * GIB, (given[2] or "ampere").lower()
    if architecture not in CONTEXT:
        raise InputError(
            f"Unknown architecture {architecture!r}; there are {', '.join(CONTEXT)}.{suggest(architecture, CONTEXT)}"
        )
    usual = CARDS[_key(_USUAL[architecture])]
    return replace(usual, name=f"{float(given[1]):g} GB, {architecture}", memory=memory, known=False)


def _architecture(capability: tuple[int, int]) -> str:
    return CAPABILITIES[max((known for known in CAPABILITIES if known <= capability), default=(6, 0))]
