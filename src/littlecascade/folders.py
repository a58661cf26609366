"""Folders that something is to be written into."""

from __future__ import annotations

import tempfile
from pathlib import Path

from littlecascade.errors import InputError


def make_folder(folder: Path) -> None:
    """Make a folder, if it is not there. Raises `InputError` if nothing can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"can't write into the folder '{folder}': {error.strerror}. Name another with -o.") from None
