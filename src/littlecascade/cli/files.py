"""Where pictures come from and go to: checked before the first one is drawn."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import chain, count
from pathlib import Path

from littlecascade.errors import InputError
from littlecascade.folders import make_folder

_OTHER_FORMATS = {".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}
_LONGEST_STEM = 50  # characters, so that four bytes each still make a file name


def stem_of(prompt: str) -> str:
    """A file name's stem made of a prompt's words.

    >>> stem_of("A red apple, on a table!"), stem_of("")
    ('a-red-apple-on-a-table', 'picture')
    """
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", prompt).lower())
    stem = ""
    for word in words:
        longer = f"{stem}-{word}" if stem else word
        if len(longer) > _LONGEST_STEM:
            break
        stem = longer
    return stem or "".join(words)[:_LONGEST_STEM] or "picture"


def plan_outputs(target: str | None, stems: Sequence[str], *, overwrite: bool = False) -> list[Path]:
    """The PNG files that pictures will be written to, one for each of `stems`, none of which is another's.

    `target` is a file if it ends in `.png`, and then several pictures become `name-1.png`, `name-2.png`, ...; otherwise
    it is a folder (None: the current one), where `stem.png` is used or, if that is taken, `stem-2.png` and so on.
    The folder is made if need be. Raises `InputError` where nothing can be written, for a format that is not PNG, and
    where a named file exists unless `overwrite`.
    """
    if target is None or not _names_file(target):
        folder = Path(target or ".")
        make_folder(folder)
        return _free_names(folder, stems, overwrite=overwrite)
    return _plan_files(Path(target), len(stems), overwrite=overwrite)


def plan_latents(target: str | None, number: int, *, overwrite: bool = False) -> list[Path]:
    """The `number` safetensors files that latents will be written to, none of them without a target.

    Raises `InputError` as `plan_outputs` does.
    """
    if target is None:
        return []
    if Path(target).suffix != ".safetensors":
        raise InputError(f"--save-latents '{target}': latents are written to a file whose name ends in .safetensors.")
    return _plan_files(Path(target), number, overwrite=overwrite)


def _plan_files(target: Path, number: int, *, overwrite: bool) -> list[Path]:
    paths = _numbered(target, number)
    make_folder(target.parent)
    for path in paths:
        if path.is_dir():
            raise InputError(f"'{path}' is a folder: name a file, or end it with '/' to write into it.")
        if path.exists() and not overwrite:
            raise InputError(f"'{path}' exists: name another file, or add --overwrite.")
    return paths


def _names_file(target: str) -> bool:
    suffix = Path(target).suffix.lower()
    if target.endswith(("/", os.sep)) or Path(target).is_dir():
        return False
    if suffix in _OTHER_FORMATS:
        raise InputError(
            f"-o '{target}': pictures are written as PNG, which carries their recipe. "
            f"Use '{Path(target).with_suffix('.png')}'."
        )
    return suffix == ".png"


def _numbered(path: Path, number: int) -> list[Path]:
    if number == 1:
        return [path]
    digits = len(str(number))
    return [path.with_stem(f"{path.stem}-{index:0{digits}}") for index in range(1, number + 1)]


def _free_names(folder: Path, stems: Sequence[str], *, overwrite: bool) -> list[Path]:
    taken = set() if overwrite else {path.name.casefold() for path in folder.iterdir()}
    choices = {stem: _names(stem) for stem in stems}
    chosen: list[Path] = []
    for stem in stems:
        name = next(name for name in choices[stem] if name.casefold() not in taken)
        taken.add(name.casefold())
        chosen.append(folder / name)
    return chosen


def _names(stem: str) -> Iterator[str]:
    return chain([f"{stem}.png"], (f"{stem}-{index}.png" for index in count(2)))
