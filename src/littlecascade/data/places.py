"""Where data is: what a person writes, resolved to files.

| written | read |
| --- | --- |
| `x.tar`, `file:x.tar`, `C:\\data\\x.tar` | a file |
| `pictures/` | all files in a folder, at any depth |
| `train-*.tar`, `**/*.jpg` | what matches |
| `train-{000..123}.tar`, `{cats,dogs}.tar` | each of them, and all have to be there |
| `s3://`, `https://`, `hf://datasets/...` | the same at a URL, through fsspec |
| `places.yml` | the places in its list, which may be such files once more |
| `pipe:program argument ...` | what a program writes, where the caller allows it; run without a shell |
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from littlecascade.data import remote
from littlecascade.data.files import File as File
from littlecascade.data.files import Folder, printable
from littlecascade.data.patience import MissingError
from littlecascade.data.pipes import Pipe, parse_pipe
from littlecascade.data.remote import RemoteFile
from littlecascade.errors import InputError, suggest

MOST_PLACES = 100_000
"""How many places the braces of one may stand for."""
_MOST_BRACES = 20
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # two letters and more: `C:` is a drive
_DRIVE = re.compile(r"/[A-Za-z]:[\\/]")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})(?:\.\.(\d{1,18}))?")
_SHOWN = 3  # places that `describe` names


@dataclass(frozen=True)
class Found:
    """What a place stands for. groups: the files that were found together, each group in order of path."""

    place: str
    groups: tuple[Sequence[File], ...]

    @property
    def files(self) -> list[File]:
        """The files of all groups."""
        return list(chain.from_iterable(self.groups))


def resolve(where: str | Sequence[str], *, allow_pipe: bool = False) -> list[Found]:
    """What each place stands for, in their order; lists in YAML files are put in where they are named.

    Raises `InputError` where nothing is, where it can't be read, and for a `pipe:` unless `allow_pipe`.
    """
    places = [where] if isinstance(where, str) else where
    return [_resolve(place, allow_pipe) for place in _read_lists(places, Path())]


def describe(found: Sequence[Found]) -> str:
    """What was found, in a line for a person: `train-{00..99}.tar: 100 tar files, 12.4 GB`."""
    names = [place.place for place in found]
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more places" if len(names) > _SHOWN else "")
    files = [file for place in found for file in place.files]
    kinds = Counter(
        "tar file" if file.is_tar else "program" if isinstance(file.path, Pipe) else "file" for file in files
    )
    counts = [f"{count:,} {kind}{'s' * (count != 1)}" for kind, count in sorted(kinds.items(), reverse=True)]
    size = _readable(sum(max(file.size, 0) for file in files))
    unknown = " and what has no known size" if any(file.size < 0 for file in files) else ""
    return f"{shown}: {' and '.join(counts) or 'no files'}, {size}{unknown}"


def _readable(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


def open_place(place: str | Path | RemoteFile | Pipe, *, allow_pipe: bool = False) -> BinaryIO:
    """One file to be read from its start to its end: what a place names, or the `path` of a `File`.

    Where a connection is cut or silent, reading goes on from there with a new one; it raises `InputError` after a few
    attempts without progress. Raises `InputError` also where the place is not one file. A `Pipe` was allowed before.
    """
    if isinstance(place, str):
        files = _resolve(place, allow_pipe).files
        if len(files) != 1:
            raise InputError(f"{place!r} stands for {len(files)} files where one is needed.")
        place = files[0].path
    if not isinstance(place, Path):
        return place.open()
    try:
        return place.open("rb")
    except OSError as error:
        raise InputError(f"{place} can't be read: {error.strerror}.") from None


def matches(place: str) -> list[Path]:
    """The local files or folders that a place names, absolute: itself, or what its braces and globs find, if anything.

    In the order of the braces, and sorted by path within each.
    """
    if _is_url(place):
        return []
    path = _local(place)
    if _exists(path):
        return [path]
    return [match for piece in expand(str(path)) for match in _glob(Path(piece))]


def expand(place: str) -> list[str]:
    """What braces stand for, as in a shell: numbers as wide as they are written, or alternatives; none comes twice.

    Raises `InputError` where that is more than `MOST_PLACES`.

    >>> expand("{a,b}-{08..10}")
    ['a-08', 'a-09', 'a-10', 'b-08', 'b-09', 'b-10']
    """
    if len(_BRACES.findall(place)) > _MOST_BRACES:
        raise InputError(f"{place!r} has more than {_MOST_BRACES} pairs of braces.")
    places = list(islice(_expand(place), MOST_PLACES + 1))
    if len(places) > MOST_PLACES:
        raise InputError(f"{place!r} stands for more than {MOST_PLACES:,} places.")
    return list(dict.fromkeys(places))


def _expand(place: str) -> Iterator[str]:
    for match in _BRACES.finditer(place):
        if choices := _choices(match[1]):
            for choice in choices:
                yield from _expand(place[: match.start()] + choice + place[match.end() :])
            return
    yield place


def _choices(text: str) -> Iterable[str]:
    """What stands for one pair of braces, nothing if they mean themselves."""
    match = _RANGE.fullmatch(text)
    if match is None:
        return text.split(",") if "," in text else ()
    first, last, step = int(match[1]), int(match[2]), int(match[3] or 1) or 1
    padded = any(len(number.lstrip("-")) > 1 and number.lstrip("-")[0] == "0" for number in match.group(1, 2))
    width = max(map(len, match.group(1, 2))) if padded else 0
    numbers = range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
    return (f"{number:0{width}}" for number in numbers)


def _is_url(place: str) -> bool:
    return _URL.match(place) is not None and not place.startswith("file:")


def _read_lists(places: Iterable[str], folder: Path, depth: int = 0) -> Iterator[str]:
    """The places themselves, in the stead of each YAML file those in it; a relative one is looked for beside it."""
    for place in places:
        if not isinstance(place, str):
            raise InputError(f"A place of data is text, not {place!r}.")
        if folder != Path() and not _is_url(place) and not place.startswith("pipe:"):
            beside = folder / place.removeprefix("file:")
            place = str(beside) if matches(str(beside)) else place
        if not place.lower().endswith((".yml", ".yaml")):
            yield place
        elif _is_url(place):
            raise InputError(f"{place}: a list of places is read from a local file: download it, and name that.")
        elif depth == 2:
            raise InputError(f"{place!r} is a list in a list in a list: name its places in the one that names it.")
        else:
            for path in _complete(place):
                yield from _read_lists(_read_list(path), path.parent, depth + 1)


def _read_list(path: Path) -> list[str]:
    import yaml

    with open_place(path) as file:
        try:
            value = yaml.safe_load(file)
        except (yaml.YAMLError, ValueError) as error:
            said = " ".join(str(error).split())
            raise InputError(f"{path} is not YAML: {said}") from None
    if not isinstance(value, list) or not value or not all(isinstance(entry, str) for entry in value):
        raise InputError(f"{path} holds no list of places: write each on a line of its own after '- '.")
    return value


def _resolve(place: str, allow_pipe: bool) -> Found:
    if place.startswith("pipe:"):
        if not allow_pipe:
            raise InputError(f"{place!r} would run a program, which is not allowed here.")
        pipe = parse_pipe(place)
        return Found(place, ((File(str(pipe), pipe, -1),),))
    if _is_url(place):
        return _resolve_remote(place)
    groups: dict[tuple[Path, bool], Sequence[File]] = {}
    loose: dict[Path, list[File]] = {}
    for path in _complete(place):
        if path.is_dir():
            groups[path, True] = _folder(path)
            continue
        file = _file(path)
        group = path if file.is_tar else path.parent
        groups[group, False] = loose.setdefault(group, [])
        loose[group].append(file)
    return Found(place, tuple(groups.values()))


def _complete(place: str) -> list[Path]:
    """The local files and folders of a place. Raises `InputError` where one of its braces finds nothing."""
    path = _local(place)
    if _exists(path):
        return [path]
    found: list[Path] = []
    for piece in map(Path, expand(str(path))):
        matched = _glob(piece)
        if not matched:
            raise InputError(f"No data at {place!r}: looked for {piece}.{_nearby(piece)}")
        found.extend(matched)
    return found


def _local(place: str) -> Path:
    """The absolute path that a place means, with its `file:` or `file://` taken away."""
    text = place.removeprefix("file:")
    if text != place:
        text = text.removeprefix("//")
        text = text[1:] if _DRIVE.match(text) else text
    path = Path(text)
    with suppress(RuntimeError):  # no such user: then it is the name of a file
        path = path.expanduser()
    return path.absolute()


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long, or a folder that may not be entered
        return False


def _glob(path: Path) -> list[Path]:
    """The path itself, or what it matches from its first part on that has a mark and does not exist as it stands."""
    if _exists(path):
        return [path]
    for above in reversed(path.parents):
        name = path.relative_to(above).parts[0]
        if any(mark in name for mark in "*?[") and not _exists(above / name):
            try:
                return sorted(above.glob(str(path.relative_to(above))))
            except ValueError:  # `**` beside other letters
                return []
    return []


def _nearby(path: Path) -> str:
    """A sentence with the name most like the first part of a path that is missing, or nothing."""
    while not path.parent.is_dir() and path.parent != path:
        path = path.parent
    try:
        return suggest(path.name, [entry.name for entry in path.parent.iterdir()])
    except OSError:
        return ""


def _file(path: Path) -> File:
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}.") from None
    if not S_ISREG(status.st_mode):
        raise InputError(f"{path} is neither a file nor a folder.")
    return File(printable(path.name), path, status.st_size)


def _folder(path: Path) -> Folder:
    if not os.access(path, os.R_OK | os.X_OK):
        raise InputError(f"{path} can't be read: you have no permission.")
    return Folder(path)


def _resolve_remote(place: str) -> Found:
    scheme, _, rest = place.partition("://")
    with ThreadPoolExecutor(remote.READERS) as pool:
        pieces = expand(f"{scheme.lower()}://{rest}")
        found = list(pool.map(lambda piece: _find(place, piece), pieces))
    groups: dict[tuple[str, bool], list[File]] = {}
    for url, files in chain.from_iterable(found):
        whole = [file.url for file in files] != [url]
        start = len(remote.path_of(url).rstrip("/")) + 1
        named = [File(remote.path_of(file.url)[start:] if whole else file.name, file, file.size) for file in files]
        group = url if whole or named[0].is_tar else url.rpartition("/")[0]
        groups.setdefault((group, whole), []).extend(named)
    return Found(place, tuple(map(tuple, groups.values())))


def _find(place: str, url: str) -> list[tuple[str, list[RemoteFile]]]:
    try:
        return remote.find(url)
    except MissingError:
        raise InputError(f"No data at {place!r}: looked for {url}.{remote.nearby(url)}") from None
