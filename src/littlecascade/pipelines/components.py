"""The parts of one cascade: where their files are, and which of them are in memory."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from littlecascade.checkpoint.networks import ROLES, load_network, notes
from littlecascade.conditioning.text import TextEncoder
from littlecascade.diffusion.parametrisation import Parametrisation
from littlecascade.errors import InputError, suggest
from littlecascade.models.config import from_dict
from littlecascade.models.previewer import Previewer
from littlecascade.models.stage_a import StageA
from littlecascade.models.stage_b import StageB
from littlecascade.models.stage_c import StageC
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


class Components:
    """Networks of a model, loaded when first asked for, on one device and in one number format."""

    def __init__(self, model: Model, device: torch.device, dtype: torch.dtype) -> None:
        self.model, self.device, self.dtype = model, device, dtype
        self._loaded: dict[str, Any] = {}

    @property
    def text(self) -> TextEncoder:
        """The text encoder."""
        if "text" not in self._loaded:
            folder = self.model.folder / "text"
            self._loaded["text"] = TextEncoder.load(folder, dtype=self.dtype, device=self.device)
        return self._loaded["text"]

    @property
    def stage_a(self) -> StageA:
        return self._network("stage_a")

    @property
    def stage_b(self) -> StageB:
        return self._network("stage_b")

    @property
    def stage_c(self) -> StageC:
        return self._network("stage_c")

    @property
    def compressor(self) -> Any:
        return self._network("compressor")

    @property
    def previewer(self) -> Previewer:
        return self._network("previewer")

    def parametrisation(self, role: str) -> Parametrisation:
        """What Stage B or C was trained to predict, as its file says."""
        return Parametrisation.from_notes(notes(self._file(role)))

    def free(self, *roles: str) -> None:
        """Drop networks from memory; without roles, all of them. They are loaded again when asked for."""
        for role in roles or tuple(self._loaded):
            self._loaded.pop(role, None)

    def _network(self, role: str) -> Any:
        if role not in self._loaded:
            self._loaded[role] = load_network(role, self._file(role), dtype=self.dtype, device=self.device)
        return self._loaded[role]

    def _file(self, role: str) -> Path:
        path = self.model.folder / ROLES[role].file
        if not path.is_file():
            present = ", ".join(sorted(entry.name for entry in self.model.folder.iterdir()))
            raise InputError(f"Model {self.model.name!r} has no {role}: looked for {path}; its folder holds {present}.")
        return path
