"""Folders that something is to be written into, by one process at a time."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from littlecascade.errors import InputError


def make_folder(folder: Path) -> None:
    """Make a folder, if it is not there. Raises `InputError` if nothing can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"can't write into the folder '{folder}': {error.strerror}. Name another with -o.") from None


@contextmanager
def alone(lock: Path, what: str) -> Iterator[None]:
    """Within, no other process is where the same file says so. The system lets go of it when a process ends.

    what: says in the message of the `InputError` what the other one does. On disks that know no locks nothing is held.
    """
    with lock.open("a+b") as handle:
        try:
            _hold(handle)
        except (BlockingIOError, PermissionError):
            raise InputError(f"{what}: wait until that has ended, or name another place.") from None
        except OSError:  # of a disk without locks
            pass
        try:
            yield
        finally:
            handle.close()
            with suppress(OSError):  # on Windows, of a file that another process is just opening
                lock.unlink()


def _hold(handle: IO[bytes]) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
