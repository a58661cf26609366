"""Reading and writing weight files. Tensors are memory-mapped; nothing in a file is ever executed."""

from __future__ import annotations

import os
import pickle
import secrets
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from littlecascade.errors import InputError, suggest

_PICKLED = (".pt", ".pth", ".ckpt", ".bin")


def save(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file whole or not at all: a failure leaves the file that was there.

    Tensors may lie on any device; those that are one and the same in memory (tied weights) are each written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    own: dict[str, Tensor] = {}
    addresses: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        own[name] = tensor.clone() if tensor.data_ptr() in addresses else tensor
        addresses.add(tensor.data_ptr())
    try:
        save_file(own, temporary, dict(metadata or {}))
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Every tensor of a weight file by its name, memory-mapped where `device` is the CPU.

    Reads .safetensors, and PyTorch's .pt, .pth, .ckpt and .bin with `weights_only=True`; a mapping that holds the
    tensors under `state_dict` is unwrapped. Raises InputError for a file that isn't there, is of another kind, is cut
    short, or holds something other than tensors.
    """
    path = _existing(path)
    if path.suffix in _PICKLED:
        return _load_pickled(path, device)
    with _open(path, str(device)) as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}


def metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The strings stored beside the tensors of a safetensors file; `{}` for a file of another kind."""
    path = _existing(path)
    if path.suffix in _PICKLED:
        return {}
    with _open(path, "cpu") as file:
        return dict(file.metadata() or {})


def _existing(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix not in (".safetensors", *_PICKLED):
        kinds = ", ".join((".safetensors", *_PICKLED))
        raise InputError(f"{path} is no weight file: its name ends in none of {kinds}.")
    if not path.is_file():
        beside = sorted(file.name for file in path.parent.iterdir()) if path.parent.is_dir() else []
        raise InputError(f"There is no weight file {path.absolute()}.{suggest(path.name, beside)}")
    return path


def _open(path: Path, device: str) -> safe_open:
    try:
        return safe_open(path, framework="pt", device=device)
    except SafetensorError as error:
        raise InputError(
            f"{path} is not a whole safetensors file ({error}); it may be a download cut short."
        ) from error


def _load_pickled(path: Path, device: str | torch.device) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location=device, weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise InputError(f"{path} can't be read as PyTorch weights: {error}") from error
    content = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(content, Mapping) or not all(torch.is_tensor(value) for value in content.values()):
        raise InputError(f"{path} holds something other than tensors by name, so it is no file of weights.")
    return dict(content)
