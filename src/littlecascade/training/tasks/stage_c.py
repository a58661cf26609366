"""Training Stage C: captions, and now and then a picture's embedding, to semantic latents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from littlecascade.conditioning.image import ImageEncoder
from littlecascade.data.cache import TensorCache, cached, fingerprint
from littlecascade.models.previewer import Previewer
from littlecascade.models.stage_c import StageC
from littlecascade.pipelines.sampling import Settings
from littlecascade.presets import find_preset
from littlecascade.training.config import StageCRun
from littlecascade.training.draws import Draws
from littlecascade.training.task import Batch
from littlecascade.training.tasks.captions import keep
from littlecascade.training.tasks.common import frozen, grid, semantic_latents
from littlecascade.training.tasks.diffusion import DiffusionTask

COLUMNS = 8


class StageCTask(DiffusionTask):
    """The picture's own embedding is given to a share of the samples, so that pictures can be varied later."""

    network: StageC

    def __init__(self, config: StageCRun) -> None:
        super().__init__("c", config, find_preset(config.model_version).stage_c)
        self.config = config
        self.latents = semantic_latents(self.pixels, config, config.effnet_checkpoint_path)
        self.images = (
            None if config.image_path is None else self._embed(ImageEncoder.load(config.image_path, torch.float32))
        )
        path = config.previewer_checkpoint_path
        self.previewer: Previewer | None = None if path is None else frozen("previewer", path)

    def _embed(self, encoder: ImageEncoder) -> TensorCache:
        """The embeddings (1, projection) of all pictures."""
        key = f"{self.pixels.key} {fingerprint(encoder.tower)} {encoder.mean} {encoder.std}"
        return cached(
            self.config.cache_folder,
            "image",
            key,
            len(self.pixels),
            lambda rows: encoder.encode(self.pixels.batch(rows)),
        )

    def fetch(self, indices: Sequence[int], draws: Draws) -> Batch:
        rows = self.captions.choose(indices, draws, self.config.text_dropout)
        conditions: Batch = {}
        if self.images is not None:
            shown = draws.chance(self.config.image_share)
            alone = (shown & draws.chance(self.config.image_alone)).tolist()
            rows = [self.captions.empty if silent else row for row, silent in zip(rows, alone, strict=True)]
            conditions["image"] = keep(self.images[indices], shown)
        text = self.captions.embed(rows)
        return {"x0": self.latents[indices], "text": text.hidden, "pooled": text.pooled, **conditions}

    def conditions(self, batch: Batch) -> dict[str, Tensor]:
        return self.network.encode_conditions(batch["text"], batch["pooled"], batch.get("image"))

    def preview(self) -> Image.Image | None:
        """What is drawn for the validation prompts, as the previewer shows it; nothing without the one or the other."""
        prompts = self.config.validation_prompts
        if self.previewer is None or not prompts:
            return None
        conditions, empty = (self._prompted(texts) for texts in (prompts, [""] * len(prompts)))
        pictures = list(self.previewer(self.draw(conditions, empty, Settings("dpmpp_2m", steps=16, guidance=3.0))))
        return grid([pictures[start : start + COLUMNS] for start in range(0, len(pictures), COLUMNS)])

    def _prompted(self, texts: list[str]) -> dict[str, Tensor]:
        embedding = self.encoder.encode(texts, chunks=1)
        return self.conditions({"text": embedding.hidden, "pooled": embedding.pooled})
