"""Training Stage B: semantic latents to Stage A's latents."""

from __future__ import annotations

from typing import Any

from PIL import Image
from torch import Tensor

from littlecascade.models.stage_a import StageA
from littlecascade.models.stage_b import StageB
from littlecascade.pipelines.sampling import Settings
from littlecascade.presets import find_preset
from littlecascade.training.config import StageBRun
from littlecascade.training.draws import Draws
from littlecascade.training.stock import Stock
from littlecascade.training.task import Batch, on_device
from littlecascade.training.tasks.common import grid, keep
from littlecascade.training.tasks.diffusion import DiffusionTask

PREVIEWS = 8


class StageBTask(DiffusionTask):
    """Semantic latents are dropped now and then, and may get noise: Stage C's are never quite the compressor's."""

    network: StageB

    def __init__(self, config: StageBRun, stock: Stock) -> None:
        super().__init__("b", config, stock, find_preset(config.model_version).stage_b, pyramid=config.pyramid_noise)
        self.config = config
        self.stage_a: StageA = stock.frozen("stage_a", config.stage_a_checkpoint_path)

    def prepare(self, raw: Any, draws: Draws) -> Batch:
        columns = self.data.columns(raw)
        captions, dropped = self.data.captions(raw, draws), draws.chance(self.config.text_dropout).tolist()
        text = self.data.embed(["" if drop else caption for caption, drop in zip(captions, dropped, strict=True)])
        effnet = columns["semantic"]
        noise = draws.normal(*effnet.shape[1:]) * (self.config.effnet_noise * draws.uniform(1, 1, 1))
        effnet = keep(effnet + noise, ~draws.chance(self.config.effnet_dropout))
        return {"x0": columns["stage_a"], "effnet": effnet, "pooled": text.pooled}

    def conditions(self, batch: Batch) -> dict[str, Tensor]:
        height, width = batch["x0"].shape[-2:]
        return self.network.encode_conditions(batch["effnet"], batch["pooled"], size=(height, width))

    def preview(self) -> Image.Image | None:
        """Pictures, Stage A's reconstructions of them, and what is drawn from their semantic latents."""
        raw = self.data.examples(PREVIEWS)
        columns = on_device(self.data.columns(raw), self.device)
        latents = columns["stage_a"]
        conditions = self.conditions({"x0": latents, "effnet": columns["semantic"], "pooled": None})
        drawn = self.draw(latents.shape, conditions, None, Settings("dpmpp_2m", steps=10))
        rows = (self.data.pictures(raw), self.stage_a.decode(latents), self.stage_a.decode(drawn))
        return grid([list(row) for row in rows])
