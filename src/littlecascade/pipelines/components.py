"""The parts of one cascade, and which of them are in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from littlecascade.checkpoint import assign
from littlecascade.checkpoint.networks import ROLES
from littlecascade.conditioning.clip import TextTower, VisionTower
from littlecascade.conditioning.image import MEAN, STD, ImageEncoder
from littlecascade.conditioning.text import TextEncoder
from littlecascade.conditioning.tokenizer import ClipTokenizer
from littlecascade.diffusion.parametrisation import Parametrisation
from littlecascade.memory import rescale
from littlecascade.memory.measure import give_back
from littlecascade.memory.placement import Placement
from littlecascade.memory.residence import Residence
from littlecascade.models.compressor import Compressor
from littlecascade.models.previewer import Previewer
from littlecascade.models.stage_a import StageA
from littlecascade.models.stage_b import StageB
from littlecascade.models.stage_c import StageC
from littlecascade.pipelines.model import Model, Weights

LARGE = ("text", "image", "stage_c", "stage_b")
"""Those that make room for each other. The rest is small."""


class Components:
    """Networks of a model, loaded when first asked for, and kept as a placement says."""

    def __init__(self, model: Model, placement: Placement) -> None:
        self.model, self.placement = model, placement
        self.remarks: dict[str, str] = {}
        """What is to be said of networks that were loaded, by role."""
        self._loaded: dict[str, Any] = {}

    @property
    def device(self) -> torch.device:
        """Where the networks compute."""
        return self.placement.device

    @property
    def dtype(self) -> torch.dtype:
        """What Stage A, the compressor and the previewer compute in."""
        return self.placement.small.dtype

    @property
    def text(self) -> TextEncoder:
        """The text encoder."""

        def load() -> TextEncoder:
            weights = self.model.text()
            tower = _place(TextTower, weights, self.placement.large)
            return TextEncoder(tower, ClipTokenizer.load(weights.folder), tokens=weights.settings.get("tokens"))

        return self._get("text", load)

    @property
    def image(self) -> ImageEncoder:
        """The image encoder."""

        def load() -> ImageEncoder:
            weights = self.model.image()
            tower = _place(VisionTower, weights, self.placement.large)
            mean, std = (weights.settings.get(f"image_{name}", own) for name, own in (("mean", MEAN), ("std", STD)))
            return ImageEncoder(tower, mean, std)

        return self._get("image", load)

    @property
    def stage_a(self) -> StageA:
        return self._network("stage_a")

    @property
    def stage_b(self) -> StageB:
        return self._get("stage_b", partial(self._stage, "stage_b"))

    @property
    def stage_c(self) -> StageC:
        return self._get("stage_c", partial(self._stage, "stage_c"))

    @property
    def compressor(self) -> Compressor:
        return self._network("compressor")

    @property
    def previewer(self) -> Previewer:
        return self._network("previewer")

    def parametrisation(self, role: str) -> Parametrisation:
        """What Stage B or C was trained to predict, as its file says."""
        return Parametrisation.from_notes(dict(self.model.network(role).notes))

    def free(self, *roles: str) -> None:
        """Drop networks from memory; without roles, all of them. They are loaded again when asked for."""
        for role in roles or tuple(self._loaded):
            self._loaded.pop(role, None)
        give_back()

    def make_room(self) -> None:
        """Drop the large networks, if they are not to stay."""
        if self.placement.offload != "none":
            self.free(*LARGE)

    def _get(self, role: str, load: Callable[[], Any]) -> Any:
        if role not in self._loaded:
            if role in LARGE:
                self.make_room()
            self._loaded[role] = load()
        return self._loaded[role]

    def _network(self, role: str) -> Any:
        def load() -> nn.Module:
            return _place(ROLES[role].network, self.model.network(role), self.placement.small)

        return self._get(role, load)

    def _stage(self, role: str) -> Any:
        weights, residence = self.model.network(role), self.placement.large
        network = rescale.place(
            partial(_built, ROLES[role].network, weights), residence, _source(weights, residence), weights.part.outline
        )
        if network.divisor > 1:
            self.remarks[role] = f"{role} in float16 with its residual stream divided by {network.divisor:.0f}"
        return network


def _place(factory: Callable[[Any], nn.Module], weights: Weights, residence: Residence) -> Any:
    """A network with its weights."""
    return residence.place(_built(factory, weights), _source(weights, residence), weights.part.outline)


def _built(factory: Callable[[Any], nn.Module], weights: Weights) -> Any:
    """A network without its weights, once it is sure that they fit."""
    with torch.device("meta"):
        network = factory(weights.config)
    assign.check(network, weights.part.outline, str(weights.path))
    return network


def _source(weights: Weights, residence: Residence) -> Mapping[str, Tensor]:
    return residence.source(weights.part.outline, weights.part.tensors(), weights.part.tensors(mapped=True))
