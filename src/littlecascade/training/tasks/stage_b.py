"""Training Stage B: semantic latents to Stage A's latents."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from littlecascade.data.cache import cached, fingerprint
from littlecascade.models.stage_a import StageA
from littlecascade.models.stage_b import StageB
from littlecascade.pipelines.sampling import Settings
from littlecascade.presets import find_preset
from littlecascade.training.config import StageBRun
from littlecascade.training.draws import Draws
from littlecascade.training.task import Batch
from littlecascade.training.tasks.captions import keep
from littlecascade.training.tasks.common import frozen, grid, semantic_latents, spread
from littlecascade.training.tasks.diffusion import DiffusionTask

PREVIEWS = 8


class StageBTask(DiffusionTask):
    """Semantic latents are dropped now and then, and may get noise: Stage C's are never quite the compressor's."""

    network: StageB

    def __init__(self, config: StageBRun) -> None:
        super().__init__("b", config, find_preset(config.model_version).stage_b, pyramid=config.pyramid_noise)
        self.config, pixels = config, self.pixels
        self.effnet = semantic_latents(pixels, config, config.effnet_checkpoint_path)
        self.stage_a: StageA = frozen("stage_a", config.stage_a_checkpoint_path)
        key = f"{pixels.key} {fingerprint(self.stage_a)} {self.stage_a.config.scale}"
        self.latents = cached(
            config.cache_folder, "stage_a", key, len(pixels), lambda rows: self.stage_a.encode(pixels.batch(rows))
        )

    def fetch(self, indices: Sequence[int], draws: Draws) -> Batch:
        rows = self.captions.choose(indices, draws, self.config.text_dropout)
        effnet = self.effnet[indices]
        noise = draws.normal(*effnet.shape[1:]) * (self.config.effnet_noise * draws.uniform(1, 1, 1))
        effnet = keep(effnet + noise, ~draws.chance(self.config.effnet_dropout))
        return {"x0": self.latents[indices], "effnet": effnet, "pooled": self.captions.embed(rows).pooled}

    def conditions(self, batch: Batch) -> dict[str, Tensor]:
        height, width = batch["x0"].shape[-2:]
        return self.network.encode_conditions(batch["effnet"], batch["pooled"], size=(height, width))

    def preview(self) -> Image.Image | None:
        """Pictures, Stage A's reconstructions of them, and what is drawn from their semantic latents."""
        indices = spread(PREVIEWS, len(self.pixels))
        latents = self.latents[indices]
        conditions = self.conditions({"x0": latents, "effnet": self.effnet[indices], "pooled": None})
        drawn = self.draw(conditions, None, Settings("dpmpp_2m", steps=10))
        rows = (self.pixels.batch(indices), self.stage_a.decode(latents), self.stage_a.decode(drawn))
        return grid([list(row) for row in rows])
