"""The samples of a data set: what is in the files that `littlecascade.data.places` finds, local or remote.

A sample is what shares a stem: `cat.jpg`, `cat.txt` (one caption a line, each an alternative), `cat.json` (any fields).
Sources only index and read bytes; `littlecascade.data.pixels` decodes them. A tar is indexed by its headers, and each
member is read where it lies when it is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from littlecascade.data.pipes import Pipe
from littlecascade.data.places import File, Found, resolve
from littlecascade.data.places import matches as matches
from littlecascade.data.remote import READERS, RemoteFile
from littlecascade.data.tars import Entry, Problem, Read, scan
from littlecascade.errors import InputError

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif"})
SIDECAR_SUFFIXES = frozenset({".txt", ".json"})
WINDOW = 1 << 18
"""Bytes that one request reads while a remote tar is indexed: many headers where members are small."""


@dataclass(frozen=True)
class Member:
    """A run of bytes: `size` bytes of `file`, starting at `offset`."""

    file: Path | RemoteFile
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes. Raises `InputError` where a server does not send them."""
        if isinstance(self.file, RemoteFile):
            return self.file.read(self.offset, self.size)
        with self.file.open("rb") as handle:
            handle.seek(self.offset)
            return handle.read(self.size)


@dataclass(frozen=True)
class Sample:
    """One picture with its captions and fields. `name` tells a person where it is."""

    name: str
    picture: Member
    text: Member | None = None
    fields: Member | None = None

    def captions(self) -> list[str]:
        """The alternatives of the `.txt` member, one a line, blank lines left out."""
        if self.text is None:
            return []
        return [line.strip() for line in self.text.read().decode("utf-8", "replace").splitlines() if line.strip()]

    def metadata(self) -> dict[str, Any]:
        """The `.json` member, or nothing. Raises `InputError` if it is not a JSON object."""
        if self.fields is None:
            return {}
        try:
            value = json.loads(self.fields.read())
        except ValueError as error:
            raise InputError(f"{self.name}: its .json member is not JSON ({error}).") from None
        if not isinstance(value, dict):
            raise InputError(f"{self.name}: its .json member holds a {type(value).__name__}, not an object.")
        return value


def find_samples(where: str | Sequence[str]) -> list[Sample]:
    """Every sample of a source, in a fixed order (by file name, then by position in the file).

    `where` is a place as `littlecascade.data.places` has them, or a list of these. Raises `InputError` when one is
    missing, holds no picture, or is a broken tar file. What `scan_tar` names as a problem of one member is left out.
    """
    samples: list[Sample] = []
    for found in resolve(where):
        inside = _index(found)
        if not inside:
            raise InputError(
                f"No picture in {found.place!r}: looked for {', '.join(sorted(PICTURE_SUFFIXES))} and .tar."
            )
        samples.extend(inside)
    return samples


def scan_tar(path: Path | RemoteFile) -> Iterator[Entry | Problem]:
    """The members of a tar and what is wrong with it, as far as it can be read: see `littlecascade.data.tars.scan`."""
    try:
        if isinstance(path, RemoteFile):
            yield from scan(_windows(path), path.size)
        else:
            with path.open("rb") as handle:

                def read(offset: int, size: int) -> bytes:
                    handle.seek(offset)
                    return handle.read(size)

                yield from scan(read, path.stat().st_size)
    except OSError as error:
        yield Problem("", 0, f"can't be read: {error.strerror}", fatal=True)


def _windows(file: RemoteFile) -> Read:
    """Reads of a remote file that ask for a little more than they need, and keep it for the next one."""
    if file.size < 0:
        raise InputError(f"{file.url} has no known size, so that no index can be made: download it first.")
    start, window = 0, b""

    def read(offset: int, size: int) -> bytes:
        nonlocal start, window
        if not start <= offset <= offset + size <= start + len(window):
            start, window = offset, file.read(offset, min(max(size, WINDOW), file.size - offset))
        return window[offset - start :][:size]

    if file.size:
        file.read(file.size - 1, 1)  # a server that sends whole files only is found out here, not at some picture
    return read


def _index(found: Found) -> list[Sample]:
    """The samples of each group: its loose files first, then those in its tars."""
    tars = [file for file in found.files if file.is_tar]
    if any(isinstance(file.path, Pipe) for file in found.files):
        raise InputError(f"{found.place!r} can only be read from end to end, and here any part of it may be needed.")
    distant = any(isinstance(file.path, RemoteFile) for file in tars)
    with (
        ThreadPoolExecutor(READERS if distant else 1) as pool,
        tqdm(total=len(tars), desc="indexing", disable=None if distant else True) as bar,
    ):
        indexed: dict[File, list[Sample]] = {}
        for file, samples in zip(tars, pool.map(_tar_samples, tars), strict=True):
            indexed[file] = samples
            bar.update()
    samples: list[Sample] = []
    for files in found.groups:
        samples += group(
            (file.name, Member(file.path, 0, file.size)) for file in files if not isinstance(file.path, Pipe)
        )
        samples += [sample for file in files if file.is_tar for sample in indexed[file]]
    return samples


def _tar_samples(file: File) -> list[Sample]:
    assert not isinstance(file.path, Pipe)
    members: list[tuple[str, Member]] = []
    for item in scan_tar(file.path):
        if isinstance(item, Entry):
            members.append((item.name, Member(file.path, item.offset, item.size)))
        elif item.fatal:
            where = file.path if isinstance(file.path, Path) else file.path.url
            raise InputError(f"{where} {item.reason}.")
    return group(members, prefix=f"{file.path.name}/")


def group(members: Iterable[tuple[str, Member]], prefix: str = "") -> list[Sample]:
    """Join members that share a stem into samples, in the order in which their pictures appear.

    Hidden members are left out: some archivers add a `._name` beside each file.
    """
    pictures: dict[str, tuple[str, Member]] = {}
    sidecars: dict[tuple[str, str], Member] = {}
    for name, member in members:
        path = PurePosixPath(name.replace("\\", "/"))
        if not path.name or path.name.startswith("."):
            continue
        stem, suffix = str(path.with_suffix("")), path.suffix.lower()
        if suffix in PICTURE_SUFFIXES:
            pictures.setdefault(stem, (name, member))
        elif suffix in SIDECAR_SUFFIXES:
            sidecars[stem, suffix] = member
    return [
        Sample(prefix + name, member, sidecars.get((stem, ".txt")), sidecars.get((stem, ".json")))
        for stem, (name, member) in pictures.items()
    ]
