"""Files of a place, and the many of a folder in some tens of bytes each."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG

import numpy as np

from littlecascade.data.lazy import Lazy
from littlecascade.data.pipes import Pipe
from littlecascade.data.remote import RemoteFile
from littlecascade.data.tars import decode_name

TAR = ".tar"


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
    """Texts one behind the other in memory: each takes its length in UTF-8 and 8 bytes."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._text, self._ends = bytearray(), array("Q")
        for name in names:
            self.append(name)

    def append(self, name: str) -> None:
        """Add one behind the others. Whatever a system gives as a name comes back the same."""
        self._text += name.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends)

    def item(self, index: int) -> str:
        """The item with an index that is in range."""
        start = self._ends[index - 1] if index else 0
        return self._text[start : self._ends[index]].decode("utf-8", "surrogatepass")

    def sorted(self) -> Names:
        """The same in the order of their code points."""
        longest = max((end - start for start, end in zip([0, *self._ends[:-1]], self._ends, strict=True)), default=0)
        encoded = (name.encode("utf-8", "surrogatepass") for name in self)
        ordered = np.fromiter(encoded, dtype=f"S{max(1, longest)}", count=len(self))
        ordered.sort()
        return Names(name.decode("utf-8", "surrogatepass") for name in ordered)


class Folder(Lazy[File]):
    """The files below a folder in order of path, but for hidden ones and those in hidden folders.

    Links to files are followed, links to folders are not, and folders that may not be read are passed over.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names, self._sizes = Names(), array("Q")
        self._walk("")

    def __len__(self) -> int:
        return len(self._names)

    def item(self, index: int) -> File:
        """The item with an index that is in range."""
        name = self._names[index]
        return File(printable(name), self.root / name, self._sizes[index])

    def tars(self) -> Iterator[File]:
        """The tar files among them."""
        return (self[place] for place, name in enumerate(self._names) if name.endswith(TAR))

    def _walk(self, below: str) -> None:
        for name in _visible(self.root / below).sorted():
            path = below + name
            with suppress(FileNotFoundError, PermissionError):  # gone since, or a link to nowhere
                status = (self.root / path).lstat()
                if S_ISDIR(status.st_mode):
                    self._walk(f"{path}/")
                    continue
                if S_ISLNK(status.st_mode):
                    status = (self.root / path).stat()
                if S_ISREG(status.st_mode):
                    self._names.append(path)
                    self._sizes.append(status.st_size)


def tars_of(files: Sequence[File]) -> list[File]:
    """The tar files among some."""
    return list(files.tars()) if isinstance(files, Folder) else [file for file in files if file.is_tar]


def _visible(folder: Path) -> Names:
    """The names in a folder, in no order, without those that begin with a dot."""
    with suppress(PermissionError), os.scandir(folder) as entries:
        return Names(entry.name for entry in entries if not entry.name.startswith("."))
    return Names()


def printable(name: str) -> str:
    """The name, also where its bytes are no text in this system's encoding."""
    return name if name.isprintable() else decode_name(os.fsencode(name))
