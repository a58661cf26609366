"""What can be known of a run's data before anything is loaded. Data at URLs are not looked at."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from PIL import Image

from littlecascade.checks import Line
from littlecascade.data import places
from littlecascade.data.files import File
from littlecascade.data.getters import parse_captions_getter
from littlecascade.data.pictures import to_rgb
from littlecascade.data.samples import (
    MASKS,
    PICTURE_SUFFIXES,
    SIDECAR_SUFFIXES,
    Group,
    LooseFiles,
    Sample,
    TarMembers,
)
from littlecascade.data.sources import scan_tar
from littlecascade.data.tars import Entry
from littlecascade.errors import InputError
from littlecascade.training.config import DiffusionRun, ImageRun, RunConfig, StageCRun

FIRST = 3
"""How many samples of a place of data are opened."""

_MEMBERS = 64  # of a tar that are looked at for them
_TARS = 3
_ENTRIES = 20_000  # of a folder
_NAMED = 3  # files that are named where several are meant


def places_of(config: RunConfig, folder: Path) -> Iterator[Line]:
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


def samples(config: RunConfig, folder: Path) -> Iterator[Line]:
    """Whether the first samples of each place of data open, and have what the run needs of them."""
    for place in _places(config):
        if _distant(place) or _is_list(place):
            continue
        try:
            yield from _judge(config, place, _look(place))
        except InputError:  # `places_of` tells it
            continue
        except OSError as error:
            yield Line("fix", "data", f"{place}: {error}", "'littlecascade data check' lists all that is wrong.")


@dataclass
class _Seen:
    """Of a place: its first samples, what lies beside them and belongs to none, and whether that is all there is."""

    samples: list[Sample] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    whole: bool = True


def _judge(config: RunConfig, place: str, seen: _Seen) -> Iterator[Line]:
    if not seen.samples:
        lost = f"{_named(seen.orphans, 'caption')} and no picture" if seen.orphans else "no picture"
        text = f"{lost} among the first files of {place}: looked for {', '.join(sorted(PICTURE_SUFFIXES))}."
        yield Line("fix", "data", text, "Name a folder of pictures, or tar shards of them.")
        return
    first = seen.samples[:FIRST]
    broken = [fault for fault in map(_fault, first) if fault]
    if broken:
        level, rest = ("fix", "") if len(broken) == len(first) else ("note", ", and is left out")
        remedy = "'littlecascade data check' lists all that is wrong."
        yield Line(level, "data", f"{place}: {broken[0]}{rest}.", remedy)
    silent = [sample.name for sample in seen.samples if not sample.captions()] if _speaks(config) else []
    text = f"{place}: {len(first) - len(broken)} of the first {len(first)} samples open"
    if not silent:
        yield Line("ok", "data", f"{text} and have captions" if _speaks(config) else text)
    elif len(silent) == len(seen.samples) and _needs_captions(config):
        remedy = "Put a .txt of the same name beside each picture, or set default_caption: '' trains without words."
        yield Line("fix", "data", f"{place}: {_named(silent, 'picture')}, none of them with a caption.", remedy)
    else:
        some = f"{len(silent)} of {len(seen.samples)} without a caption"
        instead = "A .txt beside a picture is one." if config.default_caption is None else ""
        yield Line("note", "data", f"{text}, {some}", instead)
    if isinstance(config, DiffusionRun) and config.masked_loss and not any(sample.mask for sample in seen.samples):
        names = " or ".join(f"name{ending}.png" for ending in MASKS)
        text = f"{place}: none of the {len(seen.samples)} pictures that were looked at has a mask."
        yield Line("fix", "masked_loss", text, f"Put {names} beside name.jpg, white where it counts.")
    if seen.orphans:
        yield Line("note", "data", f"{place}: {_named(seen.orphans, 'caption')} with no picture of that name, left out")
    if seen.whole and isinstance(config.webdataset_path, str) and len(seen.samples) < config.batch_size:
        count = len(seen.samples)
        much = "a single picture, which is all that can be learnt" if count == 1 else f"{count} pictures"
        yield Line("note", "data", f"{place}: {much}; each comes several times in a batch of {config.batch_size}")


def _speaks(config: RunConfig) -> bool:
    """Whether captions come from .txt files, where they are looked for here."""
    return parse_captions_getter(config.captions_getter).member == "txt"


def _needs_captions(config: RunConfig) -> bool:
    return isinstance(config, StageCRun | ImageRun) and config.default_caption is None


def _named(names: Sequence[str], what: str) -> str:
    """A number of things, and the first of them."""
    more = ", ..." if len(names) > _NAMED else ""
    return f"{len(names)} {what}{'s' if len(names) != 1 else ''} ({', '.join(names[:_NAMED])}{more})"


def _fault(sample: Sample) -> str:
    """Why a picture can't be decoded, if so."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of them becomes an error
            with Image.open(io.BytesIO(sample.picture.read())) as image:
                to_rgb(image)
    except Exception as error:  # a broken file makes Pillow's decoders raise almost anything
        return f"{sample.name} can't be decoded ({error})"
    return ""


def _look(place: str) -> _Seen:
    """What is at the beginning of a place: some thousands of loose files, and some members of the first tars."""
    folder, seen = Path(place), _Seen()
    if folder.is_dir():
        paths = list(islice((entry for entry in folder.rglob("*") if entry.is_file()), _ENTRIES))
        seen.whole = len(paths) < _ENTRIES
        found = [File(path.relative_to(folder).as_posix(), path, path.stat().st_size) for path in sorted(paths)]
    else:
        found = [file for some in places.resolve(place) for file in some.files if isinstance(file.path, Path)]
    loose = Group(LooseFiles([file for file in found if not file.is_tar]))
    seen.samples += loose
    if seen.whole:
        seen.orphans += [name for name in loose.unused() if Path(name).suffix.lower() == SIDECAR_SUFFIXES[0]]
    for number, tar in enumerate(file.path for file in found if file.is_tar and isinstance(file.path, Path)):
        if number == _TARS:
            seen.whole = False
            break
        members, complete = _first_members(tar)
        group = Group(members, f"{tar.name}/")
        seen.whole = seen.whole and complete
        seen.samples += group[: len(group) if complete else -1] or group
    return seen


def _first_members(tar: Path) -> tuple[TarMembers, bool]:
    """The first members of a tar, and whether they are all of it."""
    members = TarMembers(tar)
    entries = (entry for entry in scan_tar(tar) if isinstance(entry, Entry))
    for entry in islice(entries, _MEMBERS):
        members.append(entry)
    return members, next(entries, None) is None


def _places(config: RunConfig) -> list[str]:
    return [config.webdataset_path] if isinstance(config.webdataset_path, str) else config.webdataset_path


def _distant(place: str) -> bool:
    return place.startswith("pipe:") or ("://" in place and not place.startswith("file:"))


def _is_list(place: str) -> bool:
    return place.lower().endswith((".yml", ".yaml"))
