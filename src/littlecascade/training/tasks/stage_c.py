"""Training Stage C: captions, and now and then a picture's embedding, to semantic latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from littlecascade.checkpoint.networks import load_network, save_network
from littlecascade.conditioning.image import ImageEncoder
from littlecascade.conditioning.text import TextEncoder
from littlecascade.data.cache import TensorCache, cached, fingerprint
from littlecascade.pipelines.sampling import Settings, draw
from littlecascade.presets import find_preset
from littlecascade.training.config import StageCRun
from littlecascade.training.draws import Draws
from littlecascade.training.objective import make_objective
from littlecascade.training.task import Batch, Loss, Phase, Task
from littlecascade.training.tasks.captions import CaptionTable, keep
from littlecascade.training.tasks.common import grid, open_pixels, trainable, with_dropout


class StageCTask(Task):
    def __init__(self, config: StageCRun) -> None:
        self.config = config
        preset = find_preset(config.model_version)
        pixels = open_pixels(config)
        compressor = load_network("compressor", config.effnet_checkpoint_path, dtype=torch.float32)
        key = f"{pixels.key} {fingerprint(compressor)}"
        root = config.cache_folder
        self.latents = cached(root, "effnet", key, len(pixels), lambda rows: compressor(pixels.batch(rows)))
        self.encoder = TextEncoder.load(config.text_path)
        self.captions = CaptionTable(pixels.captions, self.encoder, root)
        self.images: TensorCache | None = None
        if config.image_path is not None:
            tower = ImageEncoder.load(config.image_path)
            image_key = f"{pixels.key} {fingerprint(tower.tower)}"
            self.images = cached(root, "image", image_key, len(pixels), lambda rows: tower.encode(pixels.batch(rows)))
        self.previewer = (
            load_network("previewer", config.previewer_checkpoint_path) if config.previewer_checkpoint_path else None
        )
        trunk = with_dropout(preset.stage_c.trunk, config.dropout)
        self.network = trainable(
            "stage_c", replace(preset.stage_c, trunk=trunk), config, config.generator_checkpoint_path
        )
        self.objective = make_objective(config)
        self.phases = [Phase("c", {"stage_c": self.network})]

    @property
    def count(self) -> int:
        return len(self.latents)

    def fetch(self, indices: Sequence[int], draws: Draws) -> Batch:
        rows = self.captions.choose(indices, draws, self.config.text_dropout)
        batch = {"x0": self.latents[indices], "text": self.captions.hidden[rows], "pooled": self.captions.pooled[rows]}
        if self.images is not None:
            batch["image"] = keep(self.images[indices], draws.chance(self.config.image_share))
        return batch

    def loss(self, phase: str, batch: Batch, draws: Draws, progress: float) -> Loss:
        conditions = self.network.encode_conditions(batch["text"], batch["pooled"], batch.get("image"))
        return Loss(*self.objective.loss(lambda x, time: self.network(x, time, **conditions), batch["x0"], draws))

    def preview(self) -> Image.Image | None:
        prompts = self.config.validation_prompts
        if self.previewer is None or not prompts:
            return None
        conditions, empty = (self._conditions(texts) for texts in (prompts, [""] * len(prompts)))
        shape = (len(prompts), *self.latents.rows.shape[1:])
        settings = Settings("dpmpp_2m", steps=16, guidance=3.0)
        latents = draw(self.network, shape, conditions, empty, self.objective.parametrisation, settings, range(len(prompts)))
        pictures = list(self.previewer(latents))
        return grid([pictures[start : start + 8] for start in range(0, len(pictures), 8)])

    def _conditions(self, texts: list[str]) -> dict[str, Tensor]:
        embedding = self.encoder.encode(texts)
        return self.network.encode_conditions(embedding.hidden, embedding.pooled)

    def export(self, folder: Path) -> None:
        save_network(
            "stage_c", self.network, folder / "stage_c.safetensors", dtype=torch.float16, notes=self.objective.parametrisation.notes()
        )

    def extra_state(self) -> dict[str, Tensor]:
        return self.objective.weight.state_dict()

    def load_extra_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.objective.weight.load_state_dict(tensors)
