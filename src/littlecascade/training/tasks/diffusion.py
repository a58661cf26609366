"""What the trainings of Stage B and Stage C share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from littlecascade.checkpoint.networks import save_network
from littlecascade.models.config import StageBConfig, StageCConfig
from littlecascade.models.stage_b import StageB
from littlecascade.models.stage_c import StageC
from littlecascade.pipelines.sampling import Settings, draw
from littlecascade.training.config import DiffusionRun
from littlecascade.training.draws import Draws
from littlecascade.training.objective import make_objective
from littlecascade.training.stock import Stock
from littlecascade.training.task import Batch, Loss, Phase, Task
from littlecascade.training.tasks.common import with_dropout


class DiffusionTask(Task):
    """One network that learns to denoise the latents "x0" of a batch, given `conditions`. `stage` is "b" or "c"."""

    network: StageB | StageC

    def __init__(self, stage: str, config: DiffusionRun, stock: Stock, preset: StageBConfig | StageCConfig) -> None:
        self.mask_floor = config.mask_floor if config.masked_loss else None
        self.role, self.device = f"stage_{stage}", stock.device
        self.data = stock.data(config)
        self.feed = self.data.feed
        built = stock.network_config(self.role, preset, config.generator_checkpoint_path)
        built = replace(built, trunk=with_dropout(built.trunk, config.dropout))
        self.network = self.build(built, config, stock)
        self.objective = make_objective(config, self.device)
        self.phases = [Phase(stage, {self.role: self.network})]

    def build(self, built: Any, config: DiffusionRun, stock: Stock) -> Any:
        """The network of this configuration, with the weights that the run begins with."""
        return stock.trainable(self.role, built, config, config.generator_checkpoint_path)

    @abstractmethod
    def conditions(self, batch: Batch) -> dict[str, Tensor]:
        """The keyword arguments of the network's `forward` for a batch that `fetch` gave."""

    @property
    def broken(self) -> Sequence[str]:
        return self.data.broken

    def loss(self, phase: str, batch: Batch, draws: Draws, progress: float) -> Loss:
        network = partial(self.network, **self.conditions(batch))
        wanted, places = partial(self.wanted, batch=batch), batch.get("places")
        return Loss(*self.objective.loss(network, batch["x0"], draws, wanted, places))

    def targets(self, raw: Any, latents: Tensor) -> dict[str, Tensor]:
        """What a batch holds of what is to be learnt: "x0", and where there are masks "places", (B, 1, H, W)."""
        if self.mask_floor is None:
            return {"x0": latents}
        masks = F.interpolate(self.data.masks(raw), latents.shape[-2:], mode="area")
        return {"x0": latents, "places": masks.clamp(min=self.mask_floor)}

    def wanted(self, target: Tensor, x: Tensor, time: Tensor, batch: Batch) -> Tensor:
        """What the prediction for noisy latents x at `time` is held against, where the objective says `target`."""
        return target

    def draw(
        self,
        shape: Sequence[int],
        conditions: Mapping[str, Tensor],
        unconditional: Mapping[str, Tensor] | None,
        settings: Settings,
    ) -> Tensor:
        """Latents (B, C, H, W) of this shape for `conditions`, picture i from seed i."""
        parametrisation = self.objective.parametrisation
        return draw(self.network, shape, conditions, unconditional, parametrisation, settings, range(shape[0]))

    def export(self, folder: Path) -> None:
        path, notes = folder / f"{self.role}.safetensors", self.objective.parametrisation.notes()
        save_network(self.role, self.network, path, dtype=torch.float16, notes=notes)

    def extra_state(self) -> dict[str, Tensor]:
        return self.objective.weight.state_dict()
