"""Writing the parts of a cascade in another format, tensor by tensor."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from littlecascade.checkpoint import files
from littlecascade.checkpoint.formats import FORMATS, diffusers
from littlecascade.checkpoint.header import INDEX
from littlecascade.checkpoint.lazy import LazyTensors
from littlecascade.checkpoint.recognise import PARTS
from littlecascade.errors import InputError

SHARD = 10 * 10**9  # bytes, as diffusers has it by default


@dataclass(frozen=True)
class Source:
    """A part to write. tensors, and outline without their data, under official names; config: plain values."""

    role: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    outline: Mapping[str, Tensor]
    notes: Mapping[str, str]


def convert(
    sources: Iterable[Source], target: Path, form: str, *, dtype: torch.dtype | None = None, shard: int = SHARD
) -> list[Path]:
    """Write parts to a .safetensors file or into a folder, and return the files of weights.

    Configurations and notes go into the files' metadata, whatever the format. dtype: of floating tensors, None keeps
    them. shard: bytes above which a file of diffusers is cut. Raises `InputError` for parts that do not go into one
    file, and for values that `dtype` can't hold.
    """
    grouped: dict[Path, list[Source]] = defaultdict(list)
    for source in sources:
        grouped[_place(target, form, source.role)].append(source)
    if target.suffix == ".safetensors":
        _check_single(target, form, grouped[target])
    written: list[Path] = []
    for path, group in grouped.items():
        naming = FORMATS[form].naming
        tensors = {role: naming(role).encode(_cast(own, dtype)) for role, own in ((s.role, s.tensors) for s in group)}
        outline = {role: naming(role).encode(_cast(own, dtype)) for role, own in ((s.role, s.outline) for s in group)}
        limit = shard if form == "diffusers" and group[0].role in diffusers.NAMINGS else None
        written += _write(path, _merged(tensors), _merged(outline), _metadata(form, group), limit)
        if limit and path != target:
            text = json.dumps(diffusers.write_config(group[0].role, group[0].config), indent=2)
            (path.parent / "config.json").write_text(text + "\n", "utf-8")
    return written


def _place(target: Path, form: str, role: str) -> Path:
    if target.suffix == ".safetensors":
        return target
    if role not in FORMATS[form].files:
        raise InputError(f"A {role} has no place in a folder of the format {form}; name a .safetensors file.")
    return target / FORMATS[form].files[role]


def _check_single(target: Path, form: str, sources: list[Source]) -> None:
    roles = [source.role for source in sources]
    together = len({FORMATS[form].files.get(role, role) for role in roles}) == 1
    if len(roles) > 1 and not together:
        raise InputError(
            f"In the format {form}, {', '.join(roles)} do not go into one file such as {target}: name a folder."
        )


def _cast(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> Mapping[str, Tensor]:
    return tensors if dtype is None else LazyTensors({name: partial(_to, tensors, name, dtype) for name in tensors})


def _to(tensors: Mapping[str, Tensor], name: str, dtype: torch.dtype) -> Tensor:
    tensor = tensors[name]
    if not tensor.is_floating_point():
        return tensor
    cast = tensor.to(dtype)
    if not cast.is_meta and cast.isinf().any() and not tensor.isinf().any():
        raise InputError(f"{name} reaches {tensor.abs().max():.3g}, which {str(dtype)[6:]} can't hold: take bfloat16.")
    return cast


def _merged(parts: Mapping[str, Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    return LazyTensors({name: partial(own.__getitem__, name) for own in parts.values() for name in own})


def _metadata(form: str, sources: list[Source]) -> dict[str, str]:
    """What is written beside the tensors. Other programs look at `format` alone."""
    if form == "own" and sources[0].role not in ("text", "image"):
        (source,) = sources
        return {**source.notes, "role": source.role, "config": json.dumps(source.config)}
    parts = {source.role: {"config": source.config, "notes": dict(source.notes)} for source in sources}
    return {"format": "pt", PARTS: json.dumps(parts)}


def _write(
    path: Path,
    tensors: Mapping[str, Tensor],
    outline: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    shard: int | None,
) -> list[Path]:
    """One file, or several of at most `shard` bytes and an index of them."""
    groups: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in outline.items():
        if shard and groups[-1] and size + tensor.nbytes > shard:
            groups.append({})
            size = 0
        groups[-1][name] = tensor
        size += tensor.nbytes
    if len(groups) == 1:
        files.save(path, tensors, metadata, outline=outline)
        return [path]
    names = [f"{path.stem}-{number:05d}-of-{len(groups):05d}.safetensors" for number in range(1, len(groups) + 1)]
    for name, group in zip(names, groups, strict=True):
        files.save(path.with_name(name), tensors, metadata, outline=group)
    places = {tensor: name for name, group in zip(names, groups, strict=True) for tensor in group}
    index = {"metadata": {"total_size": sum(t.nbytes for t in outline.values())}, "weight_map": places}
    path.with_name(path.name + INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    return [path.with_name(name) for name in names]
