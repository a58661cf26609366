"""The samples of a data set: what is in the files that `littlecascade.data.places` finds, local or remote.

Sources only index and read bytes; `littlecascade.data.pixels` decodes them. A tar is indexed by its headers, and each
member is read where it lies when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from littlecascade.data.files import File, tars_of
from littlecascade.data.pipes import Pipe
from littlecascade.data.places import Found, resolve
from littlecascade.data.places import matches as matches
from littlecascade.data.remote import READERS, RemoteFile
from littlecascade.data.samples import PICTURE_SUFFIXES as PICTURE_SUFFIXES
from littlecascade.data.samples import Group, LooseFiles, Samples, TarMembers
from littlecascade.data.samples import Member as Member
from littlecascade.data.samples import Sample as Sample
from littlecascade.data.tars import Entry, Problem, Read, scan
from littlecascade.errors import InputError

WINDOW = 1 << 18
"""Bytes that one request reads while a remote tar is indexed: many headers where members are small."""


def find_samples(where: str | Sequence[str], *, skip: Callable[[File], bool] = lambda tar: False) -> Sequence[Sample]:
    """Every sample of a source, in a fixed order (by file name, then by position in the file).

    `where` is a place as `littlecascade.data.places` has them, or a list of these. Tars for which `skip` holds are
    passed over. Raises `InputError` when a place is missing, holds no picture, or is a broken tar file. What `scan_tar`
    names as a problem of one member is left out. The sequence makes each sample when it is asked for.
    """
    parts: list[Group] = []
    for found in resolve(where):
        inside = _index(found, skip)
        if not any(map(len, inside)):
            but = " but in the tars that are passed over" if any(map(skip, found.files)) else ""
            raise InputError(
                f"No picture in {found.place!r}{but}: looked for {', '.join(sorted(PICTURE_SUFFIXES))} and .tar."
            )
        parts += inside
    return Samples(parts)


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


def _index(found: Found, skip: Callable[[File], bool]) -> list[Group]:
    """The samples of each group: its loose files first, then those in its tars."""
    tars = [[tar for tar in tars_of(files) if not skip(tar)] for files in found.groups]
    every = [tar for some in tars for tar in some]
    distant = any(isinstance(file.path, RemoteFile) for file in every)
    with (
        ThreadPoolExecutor(READERS if distant else 1) as pool,
        tqdm(total=len(every), desc="indexing", disable=None if distant else True) as bar,
    ):
        inside: list[Group] = []
        for samples in pool.map(_tar_samples, every):
            inside.append(samples)
            bar.update()
    rest = iter(inside)
    parts: list[Group] = []
    for files, some in zip(found.groups, tars, strict=True):
        parts += [Group(LooseFiles(files)), *islice(rest, len(some))]
    return parts


def _tar_samples(file: File) -> Group:
    assert not isinstance(file.path, Pipe)
    members = TarMembers(file.path)
    for item in scan_tar(file.path):
        if isinstance(item, Entry):
            members.append(item)
        elif item.fatal:
            where = file.path if isinstance(file.path, Path) else file.path.url
            raise InputError(f"{where} {item.reason}.")
    return Group(members, prefix=f"{file.path.name}/")
