"""The matrices of a network that an adapter can change, by name, in the official order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from littlecascade.errors import InputError, suggest
from littlecascade.nn.attention import FusedAttention
from littlecascade.nn.blocks import Pointwise

OFFICIAL = (".attn",)
"""The filters with which the official release trains."""

REGEX = "re:"
"""What a filter begins with that is a regular expression."""

_LISTED = 6
_BODY = ("embedding", "down_", "up_", "clf")
"""Beginnings of the trunk's names. The official code registers what maps conditions before all of them."""


class Given(NamedTuple):
    """One use of a matrix: x (..., in), the whole matrix (out, in), the bias (out,), and the rows that are used."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    rows: slice


@dataclass(frozen=True)
class Site:
    """A matrix (out, in) of a network. module: what is called to use it. parameter: its name in the state dict.

    fused: its rows are those of queries, then keys, then values.
    """

    name: str
    module: nn.Module
    parameter: str
    shape: tuple[int, int]
    fused: bool = False

    def read(self, args: tuple[Any, ...]) -> Given:
        """What a call of the module was given."""
        if self.fused:
            return Given(*args)
        weight: Any = self.module.weight
        bias: Any = self.module.bias
        return Given(args[0], weight.flatten(1), bias, slice(0, self.shape[0]))


def sites(network: nn.Module) -> dict[str, Site]:
    """All of a network's, by name: linear layers, 1x1 convolutions, and the fused matrix of an attention (`in_proj`).

    They are in the order in which the official LoRA code saves them. The network may be on the meta device.
    """
    found: list[Site] = []
    owners: dict[nn.Module, str] = {
        module.in_proj: name for name, module in network.named_modules() if isinstance(module, FusedAttention)
    }
    for name, module in network.named_modules():
        if module in owners:
            parameter = f"{owners[module]}.in_proj_weight"
            rows, columns = network.get_parameter(parameter).shape
            found.append(Site(name, module, parameter, (rows, columns), fused=True))
        elif isinstance(module, nn.Linear | Pointwise):
            found.append(Site(name, module, f"{name}.weight", (module.weight.shape[0], module.weight.shape[1])))
    return {site.name: site for site in sorted(found, key=lambda site: site.name.startswith(_BODY))}


def select(network: nn.Module, filters: Iterable[str] = OFFICIAL) -> dict[str, Site]:
    """The sites whose name holds one of the filters, or matches one that is `re:` and a regular expression.

    Raises `InputError` for a filter that matches nothing, with some names that exist, and for a broken expression.
    """
    known = sites(network)
    filters = [filters] if isinstance(filters, str) else list(filters)
    chosen: set[str] = set()
    for text in filters:
        matching = _matching(text, known)
        if not matching:
            some = ", ".join(list(known)[:: max(1, len(known) // _LISTED)])
            raise InputError(
                f"Filter {text!r} is in the name of no module that an adapter can change in {type(network).__name__}; "
                f"there are {some}, and others.{suggest(text, known)}"
            )
        chosen |= matching
    if not chosen:
        raise InputError("An adapter needs a filter that says which modules it changes, such as '.attn'.")
    return {name: site for name, site in known.items() if name in chosen}


def _matching(text: str, known: Mapping[str, Site]) -> set[str]:
    if not text.startswith(REGEX):
        return {name for name in known if text in name}
    try:
        pattern = re.compile(text.removeprefix(REGEX))
    except re.error as error:
        raise InputError(f"Filter {text!r} is no regular expression: {error}.") from None
    return {name for name in known if pattern.search(name)}
