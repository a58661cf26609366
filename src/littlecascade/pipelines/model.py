"""Which cascade to draw with: where its files are, and how it is meant to draw."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from littlecascade.errors import InputError, suggest
from littlecascade.models.config import from_dict
from littlecascade.presets import PRESETS, Drawing

PACKAGED = Path(__file__).parent.parent / "weights"


@dataclass(frozen=True)
class Model:
    """A folder of weights, the name by which it was asked for, and how it is meant to draw."""

    name: str
    folder: Path
    drawing: Drawing

    @classmethod
    def find(cls, name: str) -> Model:
        """The model of a size that the package ships, or of a folder. Raises `InputError` if there is none."""
        folder = PACKAGED / name if (PACKAGED / name).is_dir() else Path(name).expanduser()
        if not folder.is_dir():
            shipped = sorted(entry.name for entry in PACKAGED.iterdir() if entry.is_dir()) if PACKAGED.is_dir() else []
            raise InputError(
                f"No model {name!r}: neither a folder {folder.absolute()} nor one of those that are installed "
                f"({', '.join(shipped) or 'none'}).{suggest(name, shipped)}"
            )
        description = folder / "cascade.json"
        if description.is_file():
            return cls(name, folder, from_dict(Drawing, json.loads(description.read_text("utf-8"))))
        if name in PRESETS:
            return cls(name, folder, PRESETS[name].drawing)
        raise InputError(f"{folder} has no cascade.json, which says at what size and with what settings it draws.")

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that tell its weights from others': a hash of each file's size and edges."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.rglob("*.safetensors")):
            size, edge = path.stat().st_size, 1 << 16
            with path.open("rb") as handle:
                digest.update(f"{path.name} {size}".encode() + handle.read(edge))
                handle.seek(max(0, size - edge))
                digest.update(handle.read(edge))
        return digest.hexdigest()[:16]
