"""The parts of one cascade, and which of them are in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from littlecascade.checkpoint.networks import ROLES, load_network, notes
from littlecascade.conditioning.image import ImageEncoder
from littlecascade.conditioning.text import TextEncoder
from littlecascade.diffusion.parametrisation import Parametrisation
from littlecascade.errors import InputError
from littlecascade.models.previewer import Previewer
from littlecascade.models.stage_a import StageA
from littlecascade.models.stage_b import StageB
from littlecascade.models.stage_c import StageC
from littlecascade.pipelines.model import Model


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
    def image(self) -> ImageEncoder:
        """The image encoder."""
        if "image" not in self._loaded:
            folder = self.model.folder / "image"
            self._loaded["image"] = ImageEncoder.load(folder, dtype=self.dtype, device=self.device)
        return self._loaded["image"]

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
