"""What a weight file holds, read from its header alone: names, shapes, number formats and metadata."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from littlecascade.checkpoint import files
from littlecascade.checkpoint.lazy import LazyTensors
from littlecascade.errors import InputError

INDEX = ".index.json"
"""Ending of the file that says which shard holds which tensor; diffusers may write a variant's name in it."""

_INDEX = re.compile(r"\.index(\.\w+)?\.json$")

_LARGEST = 100_000_000  # bytes of a header, as the safetensors library has it


@dataclass(frozen=True)
class Header:
    """A weight file, or the index of a sharded one.

    outline: its tensors without their data, on the meta device. home: the file of each tensor. starts: the byte there
    at which it begins, for safetensors.
    """

    path: Path
    outline: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    home: Mapping[str, Path]
    starts: Mapping[str, int]

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the data."""
        return tuple(dict.fromkeys(self.home.values()))

    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors themselves, each read when it is asked for, into memory of its own.

        Nothing of a safetensors file stays mapped, so that streaming through it takes no more than one tensor's memory.
        """
        pickled = cache(files.load)
        return LazyTensors({name: partial(self._read, name, pickled) for name in self.outline})

    def mapped(self) -> Mapping[str, Tensor]:
        """The tensors themselves, mapped into memory: what is read of them, the machine can drop again if it must."""
        mapped = cache(files.load)
        return LazyTensors({name: partial(_pick, mapped, path, name) for name, path in self.home.items()})

    def _read(self, name: str, pickled: Callable[[Path], Mapping[str, Tensor]]) -> Tensor:
        path = self.home[name]
        if name not in self.starts:
            return pickled(path)[name]
        tensor = torch.empty_like(self.outline[name], device="cpu")
        data = tensor.flatten().view(torch.uint8).numpy().data
        with path.open("rb") as file:
            file.seek(self.starts[name])
            if data.nbytes and file.readinto(data) != data.nbytes:
                raise InputError(f"{path} ends inside {name}: it has changed since it was opened.")
        return tensor


def _pick(load: Callable[[Path], Mapping[str, Tensor]], path: Path, name: str) -> Tensor:
    return load(path)[name]


def is_index(path: Path) -> bool:
    """Whether a file's name is that of an index of shards."""
    return _INDEX.search(path.name) is not None


def read_header(path: str | os.PathLike[str]) -> Header:
    """The header of a weight file, or of all the shards that an index names.

    Raises `InputError` for a file that isn't there, is of another kind, or is shorter than its header says.
    """
    path = Path(path)
    if is_index(path):
        return _read_index(path)
    if path.suffix == ".safetensors" and path.is_file():
        return _read_safetensors(path)
    outline = dict(files.load(path, "meta"))
    return Header(path, outline, {}, dict.fromkeys(outline, path), {})


def _read_index(path: Path) -> Header:
    places = _parse(path, path.read_bytes()).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise InputError(f"{path} says of no tensor in which file it is: it has no weight_map.")
    shards = {name: path.parent / name for name in sorted(set(places.values()))}
    missing = [name for name, shard in shards.items() if not shard.is_file()]
    if missing:
        raise InputError(f"{path} names {len(shards)} files, of which {', '.join(missing)} are not there.")
    outline: dict[str, Tensor] = {}
    home: dict[str, Path] = {}
    metadata: dict[str, str] = {}
    starts: dict[str, int] = {}
    for shard in shards.values():
        header = read_header(shard)
        outline |= header.outline
        home |= header.home
        metadata |= header.metadata
        starts |= header.starts
    if lost := [name for name in places if name not in outline]:
        raise InputError(f"{path} names tensors that its files do not hold, {lost[0]} for one.")
    return Header(path, outline, metadata, home, starts)


def _read_safetensors(path: Path) -> Header:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LARGEST):
            raise InputError(
                f"{path} ({size:,} bytes) ends inside its header: it is no safetensors file, or a download cut short."
            )
        header = _parse(path, file.read(length))
    metadata = header.pop("__metadata__", {})
    try:
        outline = {name: _outline(entry) for name, entry in header.items()}
        starts = {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items()}
        end = max((starts[name] + tensor.nbytes for name, tensor in outline.items()), default=8 + length)
    except (KeyError, TypeError, IndexError, RuntimeError) as error:
        raise InputError(f"{path} is no safetensors file: its header is not as it should be ({error!r}).") from None
    if size != end:
        state = "a download cut short" if size < end else "damaged"
        raise InputError(f"{path} has {size:,} bytes where its header says {end:,}: it is {state}.")
    return Header(path, outline, metadata, dict.fromkeys(outline, path), starts)


def _outline(entry: Mapping[str, Any]) -> Tensor:
    return torch.empty(entry["shape"], dtype=files.DTYPES[entry["dtype"]], device="meta")


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except ValueError as error:
        raise InputError(f"{path} can't be read: its JSON is broken ({error}).") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} can't be read: it does not hold a JSON object.")
    return content
