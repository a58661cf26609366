"""Files of a place, and the many of a folder in some tens of bytes each."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG

import numpy as np

from littlecascade.data.lazy import Lazy, Made
from littlecascade.data.pipes import Pipe
from littlecascade.data.remote import RemoteFile
from littlecascade.data.tars import decode_name

TAR = ".tar"
_BLOCK = 128  # names that are packed together
_END = "\0"  # of a name


@dataclass(frozen=True, slots=True)
class File:
    """A file of a place. name: below the folder that was named, parts joined by `/`. size: in bytes, -1 if unknown."""

    name: str
    path: Path | RemoteFile | Pipe
    size: int

    @property
    def is_tar(self) -> bool:
        """Whether its name is that of a tar file."""
        return not isinstance(self.path, Pipe) and self.path.suffix == TAR


class Names(Lazy[str]):
    """Texts in the order in which they came, packed: names that resemble their neighbours take a few bytes each."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._blocks: list[bytes] = []
        self._rest: list[str] = []
        self._open: tuple[int, list[str]] = (-1, [])  # the number of the block that was asked for last, and its names
        for name in names:
            self.append(name)

    def append(self, name: str) -> None:
        """Add one behind the others. Whatever a system gives as a name comes back the same."""
        self._rest.append(name.replace(_END, "\ufffd"))
        if len(self._rest) == _BLOCK:
            self._blocks.append(zlib.compress(_END.join(self._rest).encode("utf-8", "surrogatepass"), 1))
            self._rest = []

    def __len__(self) -> int:
        return len(self._blocks) * _BLOCK + len(self._rest)

    def item(self, index: int) -> str:
        """The item with an index that is in range."""
        number, place = divmod(index, _BLOCK)
        if number == len(self._blocks):
            return self._rest[place]
        opened, names = self._open
        if opened != number:
            names = zlib.decompress(self._blocks[number]).decode("utf-8", "surrogatepass").split(_END)
            self._open = number, names
        return names[place]


class Folder(Lazy[File]):
    """The files below a folder in order of path, but for hidden ones and those in hidden folders.

    Links to files are followed, links to folders are not, and folders that may not be read are passed over.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names = Names(_walk(root))
        self.names = Made(len(self._names), lambda index: printable(self._names[index]))

    def __len__(self) -> int:
        return len(self._names)

    def item(self, index: int) -> File:
        """The item with an index that is in range."""
        path = self.root / self._names[index]
        try:
            size = path.stat().st_size
        except OSError:  # gone since
            size = -1
        return File(self.names[index], path, size)


def names_of(files: Sequence[File]) -> Sequence[str]:
    """The name of each file."""
    return files.names if isinstance(files, Folder) else [file.name for file in files]


def tars_of(files: Sequence[File]) -> list[File]:
    """The tar files among some."""
    return [files[place] for place, name in enumerate(names_of(files)) if name.endswith(TAR) and files[place].is_tar]


def _walk(root: Path, below: str = "") -> Iterator[str]:
    """The paths of the files below a folder, in order."""
    for name in _visible(root / below):
        path = below + name
        kind = _kind(root / path)
        if S_ISDIR(kind):
            yield from _walk(root, f"{path}/")
        elif S_ISREG(kind):
            yield path


def _visible(folder: Path) -> Iterator[str]:
    """The names in a folder, in the order of their code points, without those that begin with a dot."""
    try:
        with os.scandir(folder) as entries:
            names = Names(entry.name for entry in entries if not entry.name.startswith("."))
    except OSError:
        return
    longest = max((len(name.encode("utf-8", "surrogatepass")) for name in names), default=1)
    encoded = (name.encode("utf-8", "surrogatepass") for name in names)
    ordered = np.fromiter(encoded, dtype=f"S{longest}", count=len(names))
    ordered.sort()
    for name in ordered:
        yield name.decode("utf-8", "surrogatepass")


def _kind(path: Path) -> int:
    """The mode of a file, of a folder, or of what a link to a file leads to; 0 for anything else."""
    try:
        kind = path.lstat().st_mode
        if not S_ISLNK(kind):
            return kind
        kind = path.stat().st_mode
    except OSError:  # it is gone, or a link that leads nowhere
        return 0
    return 0 if S_ISDIR(kind) else kind


def printable(name: str) -> str:
    """The name, also where its bytes are no text in this system's encoding."""
    return name if name.isprintable() else decode_name(os.fsencode(name))
