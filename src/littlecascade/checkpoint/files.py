"""Reading and writing weight files. Tensors are memory-mapped; nothing in a file is ever executed."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import secrets
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from littlecascade.errors import InputError, suggest

_PICKLED = (".pt", ".pth", ".ckpt", ".bin")
ENDINGS = (".safetensors", *_PICKLED)
"""Of the names of weight files."""

_EDGE = 1 << 16  # bytes
_LINE = 64  # bytes; where mapped matrices begin decides which kernels run, and with it the last bit of what they give
_UNFINISHED = ".tmp"  # at the end of the name of a file that is being written

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Number formats by the name that safetensors gives them."""


def save(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    outline: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a safetensors file whole or not at all: a failure leaves the file that was there.

    Tensors may lie on any device, and each is asked for when it is written, so that no more than one need be in memory.
    outline: tensors of the same names, shapes and number formats, without data, where making them twice is costly.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            _write(file, tensors, outline or tensors, metadata or {})
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, making its folder."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def clear(folder: Path) -> None:
    """Remove what was left by writes into `folder` that were killed. None may be going on there."""
    for path in folder.glob(f".*{_UNFINISHED}"):
        path.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{_UNFINISHED}")


def _write(
    file: BinaryIO, tensors: Mapping[str, Tensor], outline: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """The header, then the tensors one by one.

    Those of whole lines first, so that each begins a line, then wide number formats, so that all begin at multiples of
    theirs.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    kinds = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in outline.items()}
    sizes = {name: math.prod(shape) * dtype.itemsize for name, (dtype, shape) in kinds.items()}
    end = 0
    for name in sorted(kinds, key=lambda name: (sizes[name] % _LINE > 0, -kinds[name][0].itemsize, name)):
        dtype, shape = kinds[name]
        start, end = end, end + sizes[name]
        header[name] = {"dtype": names[dtype], "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % _LINE)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in header:
        if name in kinds:
            tensor = tensors[name].detach().to("cpu").contiguous()
            if (tensor.dtype, tuple(tensor.shape)) != kinds[name]:
                raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, and was announced as {kinds[name]}")
            file.write(tensor.flatten().view(torch.uint8).numpy().data)


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


def identity(paths: Iterable[Path]) -> str:
    """Sixteen hexadecimal digits that tell these files from others: a hash of their names, sizes and edges.

    Reads 128 KiB of each. Raises `InputError` for a file that isn't there.
    """
    digest = hashlib.sha256()
    for path in paths:
        if not path.is_file():
            raise InputError(f"There is no file {path.absolute()}.{suggest(path.name, _beside(path))}")
        size = path.stat().st_size
        with path.open("rb") as handle:
            digest.update(f"{path.name} {size}".encode() + handle.read(_EDGE))
            handle.seek(max(0, size - _EDGE))
            digest.update(handle.read(_EDGE))
    return digest.hexdigest()[:16]


def _beside(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir()) if path.parent.is_dir() else []


def _existing(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix not in ENDINGS:
        raise InputError(f"{path} is no weight file: its name ends in none of {', '.join(ENDINGS)}.")
    if not path.is_file():
        raise InputError(f"There is no weight file {path.absolute()}.{suggest(path.name, _beside(path))}")
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
        mapped = zipfile.is_zipfile(path)  # what PyTorch wrote before version 1.6 is none
        content = torch.load(path, map_location=device, weights_only=True, mmap=mapped)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise InputError(f"{path} can't be read as PyTorch weights: {error}") from error
    content = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(content, Mapping) or not all(torch.is_tensor(value) for value in content.values()):
        raise InputError(f"{path} holds something other than tensors by name, so it is no file of weights.")
    return dict(content)
