"""Where the files are that a run configuration names. Nothing is ever downloaded.

A relative path is looked for beside the configuration, then in the working folder. Weights are also looked for by
their name alone, and towers by their official name, where `littlecascade models download` and a user put them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from littlecascade.checkpoint import places
from littlecascade.data.places import matches

TOWERS = {"text_path": "text", "image_path": "image"}
"""The keys that name folders of towers, and which tower it is."""

WEIGHTS = "_checkpoint_path"
"""How the keys end that name weight files."""

_WRITTEN = ("output_path", "checkpoint_path")


def exists(path: Path) -> bool:
    """Whether something is there that this user may see."""
    try:
        return path.exists()
    except OSError:  # no permission, or a name too long
        return False


def tower(role: str, size: str) -> Path:
    """How the text or image tower of a size is called where a configuration names none."""
    return Path(places.TOWERS[role]) if size in places.STAGES else places.packaged(size) / role


def candidates(key: str, path: Path, folder: Path, version: str) -> list[Path]:
    """Where the path that a key names may be, absolute, the first choice first.

    folder: the configuration's. version: its model_version.
    """
    written = path.expanduser()
    tried = [folder / written, written.absolute()]
    if key.endswith(WEIGHTS):
        size = places.VERSIONS.get(version, version)
        tried += [place / written.name for place in (places.packaged(size), *places.installed(size))]
    if key in TOWERS:
        tried += _towers(TOWERS[key], path.as_posix())
    return list(dict.fromkeys(tried))


def _towers(role: str, name: str) -> Iterator[Path]:
    """The folders of a tower by the name of its repository on the Hugging Face hub."""
    if name == places.TOWERS[role]:
        yield places.models(role)
    if name.count("/") == 1 and not Path(name).is_absolute() and (found := places.snapshot(name)) is not None:
        yield found


def resolve(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The paths among a configuration's values, and its data, as they are used; what is not found stays as it is."""
    version = str(values["model_version"])
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Path) and key not in _WRITTEN:
            there = (path for path in candidates(key, value, folder, version) if exists(path))
            path = next(there, value)
            found[key] = value if path == value.absolute() else path
    data = values["webdataset_path"]
    move = [_beside(place, folder) for place in ([data] if isinstance(data, str) else data)]
    return found | {"webdataset_path": move[0] if isinstance(data, str) else move}


def _beside(place: str, folder: Path) -> str:
    """A place of data, beside the configuration if it is there."""
    below = folder / place.removeprefix("file:")
    return str(below) if matches(str(below)) else place
