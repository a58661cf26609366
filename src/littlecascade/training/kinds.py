"""Which kind of training a configuration is for: the file does not say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from littlecascade.errors import InputError
from littlecascade.training.config import RunConfig
from littlecascade.training.config_adapters import ControlNetRun
from littlecascade.training.config_file import parse_config, read_values
from littlecascade.training.run import TASKS

KINDS: Mapping[str, type[RunConfig]] = {
    "controlnet": ControlNetRun,
    **{name: entry.config for name, entry in TASKS.items()},
}
"""The kinds of training that a configuration may be of."""


def kinds(path: Path, overrides: Sequence[str] = ()) -> dict[str, InputError | None]:
    """Every kind of training, and why a configuration is not of it; None for those that it may be of.

    A file does not say of which kind it is. It may be of those that know all its keys and lack none. Of the official
    files, and of any that names a network to go on from, that is one. Raises `InputError` for a file that can't be
    read.
    """
    values, lines = read_values(path, overrides)
    found: dict[str, InputError | None] = {}
    for kind, cls in KINDS.items():
        try:
            parse_config(cls, values, source=str(path), lines=lines)
        except InputError as error:
            found[kind] = error
        else:
            found[kind] = None
    return found


def fitting(path: Path, overrides: Sequence[str] = ()) -> list[str]:
    """The kinds of training that a configuration may be of. Raises `InputError` for a file that can't be read."""
    return [kind for kind, error in kinds(path, overrides).items() if error is None]


def kind_of(path: Path, overrides: Sequence[str] = ()) -> str:
    """The one kind of training that a configuration can be of. Raises `InputError` if it may be of several, or none."""
    found = kinds(path, overrides)
    fits = [kind for kind, error in found.items() if error is None]
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise InputError(f"{path} may be for {' or '.join(fits)}: say which with --task.")
    problems = {kind: str(error) for kind, error in found.items() if error is not None}
    nearest = min(problems, key=lambda kind: problems[kind].count("\n"))
    raise InputError(f"{problems[nearest]}\n(read as {nearest}, which it fits best; --task names another kind)")
