"""Giving loaded tensors to a network that was built without memory, on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from littlecascade.errors import InputError

Module = TypeVar("Module", bound=nn.Module)

_LISTED = 8


def build(factory: Callable[[], Module], tensors: Mapping[str, Tensor], **options: Any) -> Module:
    """Call `factory` on the meta device, so that no weight is drawn or allocated, and `materialise` what it returns."""
    with torch.device("meta"):
        module = factory()
    return materialise(module, tensors, **options)


def materialise(
    module: Module,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    source: str = "the given tensors",
) -> Module:
    """Make `tensors` the parameters and buffers of `module`, without a copy where dtype and device already fit.

    dtype: of the floating tensors; None keeps what is stored. source: names the file in an error.
    Raises InputError that lists what is missing, what is extra and what has another shape.
    """
    check(module, tensors, source)
    moved = {name: tensor.to(device, dtype if tensor.is_floating_point() else None) for name, tensor in tensors.items()}
    module.load_state_dict(moved, assign=True)
    return module


def check(module: nn.Module, given: Mapping[str, Tensor], source: str) -> None:
    """Raise InputError unless `given`, with data or without, has the names and shapes of a module's weights."""
    expected = module.state_dict()
    missing = [name for name in expected if name not in given]
    extra = [name for name in given if name not in expected]
    reshaped = [
        f"{name} {tuple(given[name].shape)} where {tuple(expected[name].shape)} is needed"
        for name in expected
        if name in given and given[name].shape != expected[name].shape
    ]
    groups = {
        f"{len(missing)} of {len(expected)} tensors missing": missing,
        f"{len(extra)} extra": extra,
        f"{len(reshaped)} of another shape": reshaped,
    }
    problems = [f"{title} ({_listed(names)})" for title, names in groups.items() if names]
    if problems:
        raise InputError(f"{source} does not fit {type(module).__name__}: " + "; ".join(problems) + ".")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
