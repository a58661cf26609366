"""Checks of what is stored: weights, and room for more."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from littlecascade.checkpoint import places
from littlecascade.checks import Line
from littlecascade.pipelines.inventory import Inventory
from littlecascade.pipelines.model import NEEDS
from littlecascade.presets import PRESETS
from littlecascade.training import paths

_LITTLE = 2 * 10**9  # bytes of a disk below which a remark is due


def weights() -> Iterator[Line]:
    """Which models are there, and what each of them lacks."""
    wanted = list(dict.fromkeys(role for roles in NEEDS.values() for role in roles if role != "tokenizer"))
    for size in PRESETS:
        inventory = Inventory.of_size(size)
        missing = [role for role in wanted if role not in inventory.parts]
        for path, problem in inventory.problems.items():
            yield Line("fix", "weights", f"{path} can't be read: {problem}", "Download or copy the file again.")
        if not missing:
            folder = next(iter(inventory.parts.values())).path.parent
            yield Line("ok", "weights", f"{size}: complete, in {folder}")
        elif size in places.STAGES:
            there = f"lacks {', '.join(missing)}" if inventory.parts else "not there"
            yield Line("note", "weights", f"{size}: {there}", f"'littlecascade models download {size}', if you want it")
        else:
            text = f"{size}: lacks {', '.join(missing)}, which are part of the package."
            yield Line("fix", "weights", text, "Install littlecascade anew.")


def room(folder: Path, what: str, needed: float = 0) -> Iterator[Line]:
    """How much room is where a folder is, or will be. needed: bytes, 0 if not known."""
    try:
        free = shutil.disk_usage(standing(folder)).free
    except OSError as error:
        yield Line("fix", "disk", f"{what} {folder}: {error.strerror}.", "Name another folder.")
        return
    text = f"{what} {folder}: {free / 1e9:,.1f} GB free"
    if needed and free < needed:
        yield Line("fix", "disk", f"{text}, about {needed / 1e9:,.1f} GB needed.", "Make room, or name another folder.")
    elif free < _LITTLE:
        yield Line("note", "disk", text, "Make room before anything large.")
    else:
        yield Line("ok", "disk", text)


def standing(folder: Path) -> Path:
    """The folder, or the first above it that there is."""
    there = folder.absolute()
    while not paths.exists(there) and there.parent != there:
        there = there.parent
    return there


def disk() -> Iterator[Line]:
    """How much room there is for models and for what is downloaded."""
    yield from room(places.home(), "models")
    yield from room(places.cached(places.CASCADE).parent, "downloads")


CHECKS = (weights, disk)
