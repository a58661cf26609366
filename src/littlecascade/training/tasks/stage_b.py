"""Training Stage B: semantic latents to Stage A's latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from littlecascade.checkpoint.networks import load_network, save_network
from littlecascade.conditioning.text import TextEncoder
from littlecascade.data.cache import cached, fingerprint
from littlecascade.pipelines.sampling import Settings, draw
from littlecascade.presets import find_preset
from littlecascade.training.config import StageBRun
from littlecascade.training.draws import Draws
from littlecascade.training.objective import make_objective
from littlecascade.training.task import Batch, Loss, Phase, Task
from littlecascade.training.tasks.captions import CaptionTable, keep
from littlecascade.training.tasks.common import grid, open_pixels, trainable, with_dropout

PREVIEWS = 8


class StageBTask(Task):
    def __init__(self, config: StageBRun) -> None:
        self.config = config
        preset = find_preset(config.model_version)
        self.pixels = pixels = open_pixels(config)
        compressor = load_network("compressor", config.effnet_checkpoint_path, dtype=torch.float32)
        self.stage_a = load_network("stage_a", config.stage_a_checkpoint_path, dtype=torch.float32)
        root, size = config.cache_folder, len(pixels)
        effnet_key, latent_key = (f"{pixels.key} {fingerprint(network)}" for network in (compressor, self.stage_a))
        self.effnet = cached(root, "effnet", effnet_key, size, lambda rows: compressor(pixels.batch(rows)))
        self.latents = cached(root, "stage_a", latent_key, size, lambda rows: self.stage_a.encode(pixels.batch(rows)))
        self.captions = CaptionTable(pixels.captions, TextEncoder.load(config.text_path), root)
        trunk = with_dropout(preset.stage_b.trunk, config.dropout)
        self.network = trainable(
            "stage_b", replace(preset.stage_b, trunk=trunk), config, config.generator_checkpoint_path
        )
        self.objective = make_objective(config, pyramid=config.pyramid_noise)
        self.phases = [Phase("b", {"stage_b": self.network})]

    @property
    def count(self) -> int:
        return len(self.latents)

    def fetch(self, indices: Sequence[int], draws: Draws) -> Batch:
        rows = self.captions.choose(indices, draws, self.config.text_dropout)
        effnet = self.effnet[indices]
        noise = draws.normal(*effnet.shape[1:]) * (self.config.effnet_noise * draws.uniform(1, 1, 1))
        effnet = keep(effnet + noise, ~draws.chance(self.config.effnet_dropout))
        return {"x0": self.latents[indices], "effnet": effnet, "pooled": self.captions.pooled[rows]}

    def loss(self, phase: str, batch: Batch, draws: Draws, progress: float) -> Loss:
        x0: Tensor = batch["x0"]
        conditions = self.network.encode_conditions(
            batch["effnet"], batch["pooled"], size=(x0.shape[2], x0.shape[3])
        )
        return Loss(*self.objective.loss(lambda x, time: self.network(x, time, **conditions), x0, draws))

    def preview(self) -> Image.Image | None:
        """Pictures, Stage A's reconstructions of them, and what is drawn from their semantic latents."""
        indices = [number * len(self.pixels) // PREVIEWS for number in range(PREVIEWS)]
        originals, latents = self.pixels.batch(indices), self.latents[indices]
        conditions = self.network.encode_conditions(self.effnet[indices], size=(latents.shape[2], latents.shape[3]))
        settings = Settings("dpmpp_2m", steps=10, guidance=1.0)
        drawn = draw(self.network, tuple(latents.shape), conditions, None, self.objective.parametrisation, settings, range(PREVIEWS))
        return grid([list(originals), list(self.stage_a.decode(latents)), list(self.stage_a.decode(drawn))])

    def export(self, folder: Path) -> None:
        save_network(
            "stage_b", self.network, folder / "stage_b.safetensors", dtype=torch.float16, notes=self.objective.parametrisation.notes()
        )

    def extra_state(self) -> dict[str, Tensor]:
        return self.objective.weight.state_dict()

    def load_extra_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.objective.weight.load_state_dict(tensors)
