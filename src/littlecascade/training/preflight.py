"""What can be known of a run before anything is loaded: whether all that its configuration names is there, and fits.

`require` is what every training begins with; `littlecascade doctor` and `train --dry-run` tell all of it. Nothing is
downloaded: data at URLs are not looked at.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from littlecascade.checkpoint.places import STAGES
from littlecascade.checks import Line
from littlecascade.data import places
from littlecascade.data.files import File
from littlecascade.data.pictures import to_rgb
from littlecascade.data.samples import PICTURE_SUFFIXES, Group, LooseFiles, Sample, TarMembers
from littlecascade.data.sources import scan_tar
from littlecascade.data.tars import Entry
from littlecascade.errors import InputError, nearest
from littlecascade.training import paths
from littlecascade.training.config import DiffusionRun, RunConfig, StageBRun

FIRST = 3
"""How many samples of a place of data are opened."""

_MEMBERS = 64  # of a tar that are looked at for them
_ENTRIES = 2000  # of a folder
_WRITTEN = ("output_path", "cache_path", "checkpoint_path")

Check = Callable[[RunConfig, Path], Iterable[Line]]
"""From a configuration, and the folder that it lies in, to what is to be said of it."""


def require(config: RunConfig, folder: Path) -> list[str]:
    """Which files and data a run uses, a line each. Raises one `InputError` that lists all that is missing."""
    lines = [*files(config, folder), *data(config, folder)]
    missing = [f"  {line.subject}: {line.text} {line.remedy}".rstrip() for line in lines if line.level == "fix"]
    if missing:
        raise InputError("\n".join(["Not all that this run needs is there:", *missing]))
    return [f"{line.subject}: {line.text}" for line in lines]


def files(config: RunConfig, folder: Path) -> Iterator[Line]:
    """Whether each file and folder is there, and which one is used."""
    for key, value in config:
        if not isinstance(value, Path) or key in _WRITTEN:
            continue
        if paths.exists(value):
            yield Line("ok", key, str(value.absolute()))
            continue
        tried = paths.candidates(key, value, folder, config.model_version)
        text = f"there is no {value}: looked for {', '.join(map(str, tried))}.{_nearest(tried)}"
        yield Line("fix", key, text, _remedy(key, config))


def _nearest(tried: Iterable[Path]) -> str:
    """A sentence with what is there and spelt most like one of the paths, or nothing."""
    for path in tried:
        lost = path
        while not lost.parent.is_dir() and lost.parent != lost:
            lost = lost.parent
        try:
            entries = list(islice(lost.parent.iterdir(), _ENTRIES))
        except OSError:
            continue
        alike = [entry.name for entry in entries if (entry.suffix == path.suffix if lost == path else entry.is_dir())]
        if name := nearest(lost.name, alike):
            return f" Nearest to it is {lost.parent / name}."
    return ""


def _remedy(key: str, config: RunConfig) -> str:
    if key.endswith(paths.WEIGHTS) or key in paths.TOWERS:
        from littlecascade.presets import find_preset

        size = find_preset(config.model_version).name
        if size in STAGES:
            return f"'littlecascade models download {size}' fetches the official files; or set {key} to yours."
    return f"Set {key} to where it is."


def data(config: RunConfig, folder: Path) -> Iterator[Line]:
    """Whether each place of data is there."""
    for place in _places(config):
        if _distant(place):
            yield Line("note", "webdataset_path", f"{place} (not looked at: it is not on this machine)")
            continue
        if _is_list(place) and places.matches(place):
            yield Line("note", "webdataset_path", f"{place} (a list, which is read when the training begins)")
            continue
        if Path(place).is_dir():
            yield Line("ok", "webdataset_path", place)
            continue
        try:
            yield Line("ok", "webdataset_path", places.describe(places.resolve(place)))
        except InputError as error:
            name = place.removeprefix("file:")
            also = "" if Path(name).is_absolute() else f" Looked beside the configuration, too: {folder / name}."
            yield Line("fix", "webdataset_path", f"{error}{also}", "Set webdataset_path to where the data are.")


def _places(config: RunConfig) -> list[str]:
    return [config.webdataset_path] if isinstance(config.webdataset_path, str) else config.webdataset_path


def _distant(place: str) -> bool:
    return place.startswith("pipe:") or ("://" in place and not place.startswith("file:"))


def _is_list(place: str) -> bool:
    return place.lower().endswith((".yml", ".yaml"))


def samples(config: RunConfig, folder: Path) -> Iterator[Line]:
    """Whether the first samples of each place of data open, and have captions."""
    for place in _places(config):
        if _distant(place) or _is_list(place):
            continue
        try:
            found = _first_files(place)
        except InputError:  # `data` tells it
            continue
        try:
            first = list(islice(_first(found), FIRST))
            for sample in first:
                _open(sample)
        except (InputError, OSError) as error:
            yield Line("fix", "data", f"{place}: {error}", "'littlecascade data check' lists all that is wrong.")
            continue
        if not first:
            text = f"no picture among the first files of {place}: looked for {', '.join(sorted(PICTURE_SUFFIXES))}."
            yield Line("fix", "data", text, "Name a folder of pictures, or tar shards of them.")
            continue
        silent = sum(not sample.captions() for sample in first)
        text = f"{place}: the first {len(first)} samples open"
        if silent:
            yield Line("note", "data", f"{text}, {silent} of them without a caption", "A .txt beside a picture is one.")
        else:
            yield Line("ok", "data", f"{text} and have captions")


def _open(sample: Sample) -> None:
    """Raise `InputError` for a picture that can't be decoded."""
    try:
        with Image.open(io.BytesIO(sample.picture.read())) as image:
            to_rgb(image)
    except Exception as error:  # a broken file makes Pillow's decoders raise almost anything
        raise InputError(f"{sample.name} can't be decoded: {error}.") from None


def _first_files(place: str) -> list[Path]:
    """The files of a place; of a folder, which may be large, the first few."""
    folder = Path(place)
    if folder.is_dir():
        found = islice((entry for entry in folder.rglob("*") if not entry.name.startswith(".")), _ENTRIES)
        return sorted(entry for entry in found if entry.is_file())
    return [file.path for found in places.resolve(place) for file in found.files if isinstance(file.path, Path)]


def _first(entries: Iterable[Path]) -> Iterator[Sample]:
    """The samples in files, each opened when it is asked for."""
    for path in entries:
        if path.suffix == ".tar":
            members = TarMembers(path)
            for entry in islice((entry for entry in scan_tar(path) if isinstance(entry, Entry)), _MEMBERS):
                members.append(entry)
            yield from Group(members, f"{path.name}/")
        elif path.suffix.lower() in PICTURE_SUFFIXES:
            beside = (path, path.with_suffix(".txt"), path.with_suffix(".json"))
            there = [File(entry.name, entry, entry.stat().st_size) for entry in beside if entry.is_file()]
            yield from Group(LooseFiles(there))


def networks(config: RunConfig, folder: Path) -> Iterator[Line]:
    """Whether each weight file is of the network that its key asks for, and of the right size."""
    from littlecascade.checkpoint.recognise import recognise
    from littlecascade.pipelines.inventory import describe, sizes
    from littlecascade.presets import find_preset

    size = find_preset(config.model_version).name
    for key, value in config:
        roles = _roles(key, config)
        if not roles or not isinstance(value, Path) or not value.is_file():
            continue
        try:
            parts = recognise(value)
        except (InputError, OSError) as error:
            yield Line("fix", key, str(error), "Download or copy the file again.")
            continue
        part = next((part for part in parts if part.role in roles), None)
        if part is None:
            found = " and ".join(map(describe, parts)) or "no part of a cascade that is known here"
            yield Line("fix", key, f"{value} is {found}, not {' or '.join(roles)}.", f"Set {key} to such a file.")
        elif part.role in ("stage_b", "stage_c") and sizes(part) and size not in sizes(part):
            text = f"{value} is {describe(part)}, and model_version {config.model_version} is {size}."
            yield Line("fix", key, text, "Change the one or the other.")
        else:
            yield Line("ok", key, f"{describe(part)}, {part.parameters / 1e6:,.1f} million parameters")


def _roles(key: str, config: RunConfig) -> tuple[str, ...]:
    """What the file of a key may hold; nothing for a key that names no weights of one network."""
    known: dict[str, tuple[str, ...]] = {
        "effnet_checkpoint_path": ("compressor",),
        "previewer_checkpoint_path": ("previewer",),
        "stage_a_checkpoint_path": ("stage_a",),
        "generator_checkpoint_path": ("stage_b",) if isinstance(config, StageBRun) else ("stage_c",),
        "lora_checkpoint_path": ("lora",),
        "controlnet_checkpoint_path": ("controlnet",),
    }
    return known.get(key, ())


def towers(config: RunConfig, folder: Path) -> Iterator[Line]:
    """Whether the towers' folders hold towers, as wide as what they feed."""
    from littlecascade.conditioning.clip import TextConfig, VisionConfig
    from littlecascade.conditioning.folder import CONFIG, read_json

    kinds: dict[str, type[TextConfig | VisionConfig]] = {"text_path": TextConfig, "image_path": VisionConfig}
    for key, kind in kinds.items():
        path = getattr(config, key, None)
        if not isinstance(path, Path) or not path.is_dir():
            continue
        try:
            tower = kind.from_transformers(read_json(path / CONFIG))
        except InputError as error:
            yield Line("fix", key, str(error), f"Set {key} to the folder of a CLIP model that transformers saved.")
            continue
        wanted = _projection(config, key)
        if wanted is not None and wanted != tower.projection:
            text = f"{path} gives vectors of {tower.projection} values, and the network takes {wanted}."
            yield Line("fix", key, text, "Take the tower that the network was trained with.")
        else:
            text = f"{paths.TOWERS[key]} tower, {tower.depth} layers, {tower.projection} values a vector"
            yield Line("ok", key, text)


def _projection(config: RunConfig, key: str) -> int | None:
    """How wide a tower's vectors have to be for the network that is trained; None for a run that trains a tower."""
    from littlecascade.checkpoint.recognise import recognise
    from littlecascade.models.config import to_dict
    from littlecascade.presets import find_preset

    if not isinstance(config, DiffusionRun):
        return None
    roles, path = _roles("generator_checkpoint_path", config), config.generator_checkpoint_path
    values: dict[str, Any] | None = None
    if path is not None and path.is_file():
        try:
            values = next((part.config for part in recognise(path) if part.role in roles), None)
        except InputError:
            return None
    values = values or to_dict(getattr(find_preset(config.model_version), roles[0]))
    return values.get({"text_path": "pooled_width", "image_path": "image_width"}[key])
