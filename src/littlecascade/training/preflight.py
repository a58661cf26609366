"""What can be known of a run before anything is loaded: whether all that its configuration names is there, and fits.

`require` is what every training begins with; `littlecascade doctor` and `train --dry-run` tell all of it. Nothing is
downloaded. What is to be said of the data is in `littlecascade.training.preflight_data`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from littlecascade.checkpoint.places import STAGES
from littlecascade.checks import Line
from littlecascade.errors import InputError, nearest
from littlecascade.training import paths, preflight_data, trackers
from littlecascade.training.config import DiffusionRun, RunConfig, StageBRun
from littlecascade.training.config_adapters import LoraBRun, LoraRun

_ENTRIES = 2000  # of a folder
_WRITTEN = ("output_path", "cache_path", "checkpoint_path")

Check = Callable[[RunConfig, Path], Iterable[Line]]
"""From a configuration, and the folder that it lies in, to what is to be said of it."""


def require(config: RunConfig, folder: Path) -> list[str]:
    """Which files and data a run uses, and what is to be noted of them, a line each.

    Raises one `InputError` that lists all that is missing, or else one that lists all that does not fit.
    """
    used = [*files(config, folder), *preflight_data.places_of(config, folder)]
    _raise("Not all that this run needs is there:", used)
    fitting = [line for check in _FIT for line in check(config, folder)]
    _raise("This run can't start as it is:", fitting)
    return [f"{line.subject}: {line.text}" for line in [*used, *(line for line in fitting if line.level == "note")]]


def extras(config: RunConfig, folder: Path) -> Iterator[Line]:
    """Which packages are missing that the configuration asks for."""
    for name in trackers.missing(config):
        remedy = f"pip install 'littlecascade[{name}]', or set {name} to false."
        yield Line("fix", name, f"{name}: true needs the package {name}, which is not installed.", remedy)


def _raise(what: str, lines: Iterable[Line]) -> None:
    faults = [f"  {line.subject}: {line.text} {line.remedy}".rstrip() for line in lines if line.level == "fix"]
    if faults:
        raise InputError("\n".join([what, *faults]))


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


def adapters(config: RunConfig, folder: Path) -> Iterator[Line]:
    """Whether there are the modules that a LoRA is to change, and the tokens. No weights are read."""
    if not isinstance(config, LoraRun | LoraBRun):
        return
    from littlecascade.adapters.tokens import resolve
    from littlecascade.checkpoint.networks import read_config
    from littlecascade.conditioning.clip import TextConfig
    from littlecascade.conditioning.folder import CONFIG, read_json
    from littlecascade.conditioning.tokenizer import ClipTokenizer
    from littlecascade.presets import find_preset

    path = config.generator_checkpoint_path
    stored = read_config(config.stage, path) if path is not None and path.is_file() else None
    built = stored or getattr(find_preset(config.model_version), config.stage)
    yield _modules("module_filters", config.stage, built, config.module_filters)
    if not isinstance(config, LoraRun) or not (config.text_path / CONFIG).is_file():
        return
    if config.text_module_filters:
        tower = TextConfig.from_transformers(read_json(config.text_path / CONFIG))
        yield _modules("text_module_filters", "text", tower, config.text_module_filters)
    if config.train_tokens:
        try:
            rows = resolve(config.train_tokens, ClipTokenizer.load(config.text_path))
            yield Line("ok", "train_tokens", f"{len(rows)} tokens: {', '.join(row.name for row in rows[:5])}")
        except InputError as error:
            yield Line("fix", "train_tokens", str(error).removeprefix("train_tokens: "), "Change train_tokens.")


def _modules(key: str, role: str, built: Any, filters: Sequence[str]) -> Line:
    """How many matrices of a network filters choose."""
    from littlecascade.adapters.sites import select
    from littlecascade.pipelines.adapting import outline

    try:
        return Line("ok", key, f"{len(select(outline(role, built), filters))} matrices")
    except InputError as error:
        return Line("fix", key, str(error), "Name parts of such names, or 're:' and an expression.")


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


_FIT: tuple[Check, ...] = (extras, networks, towers, adapters, preflight_data.samples)
