"""Which number format the networks compute in."""

from __future__ import annotations

import time
from typing import TypeVar

import torch
from torch import nn

from littlecascade.errors import InputError, suggest

Module = TypeVar("Module", bound=nn.Module)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; `auto` is the first GPU if there is one. Raises `InputError` where it is missing."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise InputError(
            f"Unknown device {name!r}; there are auto, cpu and cuda.{suggest(name, ['auto', 'cpu', 'cuda'])}"
        )
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("No CUDA device: this PyTorch sees none. With --device cpu everything runs, more slowly.")
    return torch.device(name)


def choose_dtype(precision: str, device: torch.device | str) -> torch.dtype:
    """The format named by `precision`, or for `auto` the fastest one that is safe for training on `device`.

    On a GPU that is bfloat16 where the hardware has it. On a CPU a short measurement decides, since many accept
    bfloat16 and are slower with it.
    """
    if precision in DTYPES:
        return DTYPES[precision]
    if precision != "auto":
        choices = ["auto", *DTYPES]
        raise InputError(f"Unknown precision {precision!r}; known: {', '.join(choices)}.{suggest(precision, choices)}")
    device = torch.device(device)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if _matmul_time(torch.bfloat16) * 1.5 < _matmul_time(torch.float32) else torch.float32


def _matmul_time(dtype: torch.dtype, size: int = 768, repeats: int = 4) -> float:
    """Seconds for the fastest of a few square matrix products."""
    left, right = torch.ones(size, size, dtype=dtype), torch.ones(size, size, dtype=dtype)
    times: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(left, right)
        times.append(time.perf_counter() - start)
    return min(times)


def cast(module: Module, dtype: torch.dtype, *, copy: bool = False) -> Module:
    """Convert a module's weights, one by one; batch normalisation becomes float32, whose running statistics need it.

    copy: what is of that format already becomes a new tensor, too.
    """
    for child in module.modules():
        kind = torch.float32 if isinstance(child, nn.modules.batchnorm._BatchNorm) else dtype
        for name, parameter in child.named_parameters(recurse=False):
            if parameter.is_floating_point():
                values = parameter.detach().to(kind, copy=copy)
                setattr(child, name, nn.Parameter(values, requires_grad=parameter.requires_grad))
        for name, buffer in child.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(child, name, buffer.to(kind, copy=copy))
    return module
