"""Inference configurations as the official release has them: flat YAML that names the file of each network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from littlecascade.checkpoint import places
from littlecascade.checkpoint.recognise import Part
from littlecascade.errors import InputError, suggest
from littlecascade.pipelines.inventory import describe, parts_of, sizes
from littlecascade.presets import find_preset

ENDINGS = (".yaml", ".yml")

_NETWORKS: dict[str, tuple[str, ...]] = {
    "effnet_checkpoint_path": ("compressor",),
    "previewer_checkpoint_path": ("previewer",),
    "stage_a_checkpoint_path": ("stage_a",),
    "generator_checkpoint_path": ("stage_c", "stage_b"),
}
"""Keys that name files, and the roles that those may have."""

_KEPT = {
    *("model_version", "dtype", "image_size", "batch_size", "grad_accum_steps", "webdataset_path"),
    *("clip_text_model_name", "clip_image_model_name"),
    *("controlnet_checkpoint_path", "controlnet_blocks", "controlnet_filter", "controlnet_filter_params"),
    *("controlnet_bottleneck_mode", "lora_checkpoint_path", "module_filters", "rank", "train_tokens"),
}
"""Keys that say something else."""


@dataclass
class Named:
    """The parts in explicitly named files, the size that configurations ask for, and all that those say."""

    parts: list[Part] = field(default_factory=list)
    size: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def read(files: Sequence[Path]) -> Named:
    """What weight files and configurations name; where several say something, the first one counts.

    Raises `InputError` that lists all files that are missing, with every path tried, or says what a file is if it is
    not what its key asks for.
    """
    named, missing = Named(), []
    for file in files:
        if file.suffix not in ENDINGS:
            named.parts += parts_of(file)
            continue
        settings = _parse(file)
        size = find_preset(str(settings["model_version"])).name if "model_version" in settings else None
        for key, roles in _NETWORKS.items():
            if key not in settings:
                continue
            tried = _candidates(str(settings[key]), file, size)
            found = next((path for path in tried if path.is_file()), None)
            if found is None:
                missing.append(f"{key} of {file}: tried {', '.join(map(str, tried))}")
            else:
                named.parts.append(_part(found, roles, size, f"{key} of {file}"))
        named.size = named.size or size
        named.settings = settings | named.settings
    if missing:
        raise InputError(
            f"There is no file for {'; '.join(missing)}. "
            f"'littlecascade models download {named.size or 'SIZE'}' fetches the official ones."
        )
    return named


def _parse(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"There is no configuration {file.absolute()}.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file} can't be read: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{file} is no configuration: it takes lines of the form `key: value`.")
    known = {*_NETWORKS, *_KEPT}
    for key in content:
        if key not in known:
            raise InputError(f"{file}: there is no key {key!r}.{suggest(str(key), known)}")
    if not set(content) & set(_NETWORKS):
        raise InputError(f"{file} names no weights: it has none of {', '.join(_NETWORKS)}.")
    return content


def _candidates(value: str, file: Path, size: str | None) -> list[Path]:
    """Where the file that a configuration names may be: there, beside the configuration, or installed by its name."""
    path = Path(value).expanduser()
    beside = [] if path.is_absolute() else [file.parent / path]
    return list(
        dict.fromkeys(
            [path.absolute(), *(p.absolute() for p in beside), *(f / path.name for f in places.installed(size))]
        )
    )


def _part(path: Path, roles: tuple[str, ...], size: str | None, where: str) -> Part:
    parts = parts_of(path)
    part = next((part for part in parts if part.role in roles), None)
    if part is None:
        found = " and ".join(describe(part) for part in parts)
        raise InputError(f"{where}: {path} is {found}, not {' or '.join(roles)}.")
    if size and sizes(part) and size not in sizes(part):
        raise InputError(f"{where}: {path} is {describe(part)}, and model_version asks for {size}.")
    return part
