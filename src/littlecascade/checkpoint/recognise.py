"""What a weight file is, told by the names and shapes of its tensors. No tensor is read for it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from littlecascade.checkpoint import files
from littlecascade.checkpoint.derive import derive
from littlecascade.checkpoint.formats import FORMATS, diffusers
from littlecascade.checkpoint.header import Header, is_index, read_header
from littlecascade.errors import InputError

PARTS = "parts"
"""Metadata of a file that may hold several networks: JSON of each one's `config` and `notes`, by role."""

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Part:
    """One network in a weight file.

    role: stage_a, stage_b, stage_c, compressor, previewer, text, image, controlnet or lora. format: a key of `FORMATS`.
    outline: its tensors under official names, without their data. config: plain values, None where nothing tells them;
    `told` if they are written with the weights rather than read off the shapes. notes: what else the file says of it.
    """

    role: str
    format: str
    header: Header
    outline: Mapping[str, Tensor]
    config: dict[str, Any] | None
    told: bool
    notes: Mapping[str, str]

    @property
    def path(self) -> Path:
        """Its file, or the index of its shards."""
        return self.header.path

    @property
    def parameters(self) -> int:
        """Number of trained values."""
        return sum(tensor.numel() for name, tensor in self.outline.items() if not name.endswith(_BUFFERS))

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensor in self.outline.values())

    @property
    def dtype(self) -> torch.dtype:
        """The number format of most of its parameters."""
        counts: dict[torch.dtype, int] = {}
        for tensor in self.outline.values():
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.numel()
        return max(counts, key=counts.__getitem__)

    def tensors(self, *, mapped: bool = False) -> Mapping[str, Tensor]:
        """Its tensors under official names, each read or mapped into memory when it is asked for."""
        return FORMATS[self.format].naming(self.role).decode(self.header.mapped() if mapped else self.header.tensors())


def recognise(path: str | os.PathLike[str]) -> list[Part]:
    """The networks in a weight file, or in the shards that an index file names; none in a file of something else.

    Raises `InputError` for a file that can't be read.
    """
    header = read_header(path)
    return [_part(header, role, name) for role, name in _roles(header.outline).items()]


def weight_files(folder: Path) -> list[Path]:
    """Weight files in a folder and in the folders in it, an index standing for its shards."""
    levels = [folder, *sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))]
    entries = [entry for level in levels for entry in sorted(level.iterdir()) if entry.is_file()]
    indices = [entry for entry in entries if is_index(entry)]
    shards = {index.parent / name for index in indices for name in _shards(index)}
    whole = [entry for entry in entries if entry.suffix in files.ENDINGS and not entry.name.startswith(".")]
    return [*indices, *(entry for entry in whole if entry not in shards)]


def _shards(index: Path) -> Iterable[str]:
    try:
        return set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()


def _roles(names: Mapping[str, Tensor]) -> dict[str, str]:
    """The format of each role that is in a file."""
    found: dict[str, str] = {}
    for name, form in FORMATS.items():
        for role, naming in form.namings.items():
            if role not in found and naming.fits(names):
                found[role] = name
    if not found and any(".lora_down" in name or ".lora_A." in name for name in names):
        return {"lora": "official"}
    return found


def _part(header: Header, role: str, form: str) -> Part:
    outline = dict(FORMATS[form].naming(role).decode(header.outline).items())
    if form == "official" and "role" in header.metadata:
        form = "own"
    stored, notes = _stored(header, role)
    if stored is None and form == "diffusers":
        stored = _described(header.path.parent / "config.json", role, outline)
    return Part(role, form, header, outline, stored or derive(role, outline), stored is not None, notes)


def _stored(header: Header, role: str) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """The configuration and the notes in the metadata."""
    try:
        if PARTS in header.metadata:
            part = json.loads(header.metadata[PARTS]).get(role, {"config": None, "notes": {}})
            return part["config"], part["notes"]
        config = json.loads(header.metadata["config"]) if header.metadata.get("role") == role else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{header.path}: the configuration it carries can't be read ({error!r}).") from None
    return config, {name: text for name, text in header.metadata.items() if name not in ("role", "config", "format")}


def _described(file: Path, role: str, outline: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The configuration that diffusers keeps beside the weights; shapes tell what it leaves out."""
    values = derive(role, outline)
    if values is None or not file.is_file():
        return None
    try:
        stored = diffusers.read_config(role, json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is no configuration of diffusers' {role}: {error!r}.") from None
    trunk = {"trunk": values["trunk"] | stored.pop("trunk")} if "trunk" in values else {}
    return values | stored | trunk
