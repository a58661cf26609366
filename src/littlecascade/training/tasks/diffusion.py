"""What the trainings of Stage B and Stage C share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from littlecascade.checkpoint.networks import save_network
from littlecascade.models.config import StageBConfig, StageCConfig
from littlecascade.models.stage_b import StageB
from littlecascade.models.stage_c import StageC
from littlecascade.pipelines.sampling import Settings, draw
from littlecascade.training.config import DiffusionRun
from littlecascade.training.data import open_data
from littlecascade.training.draws import Draws
from littlecascade.training.objective import make_objective
from littlecascade.training.task import Batch, Loss, Phase, Task
from littlecascade.training.tasks.common import network_config, trainable, with_dropout


class DiffusionTask(Task):
    """One network that learns to denoise the latents "x0" of a batch, given `conditions`. `stage` is "b" or "c"."""

    network: StageB | StageC

    def __init__(
        self,
        stage: str,
        config: DiffusionRun,
        preset: StageBConfig | StageCConfig,
        *,
        pyramid: bool = False,
    ) -> None:
        self.role = f"stage_{stage}"
        self.data = open_data(config)
        self.feed = self.data.feed
        built = network_config(self.role, preset, config.generator_checkpoint_path)
        built = replace(built, trunk=with_dropout(built.trunk, config.dropout))
        self.network = self.build(built, config)
        self.objective = make_objective(config, pyramid=pyramid)
        self.phases = [Phase(stage, {self.role: self.network})]

    def build(self, built: Any, config: DiffusionRun) -> Any:
        """The network of this configuration, with the weights that the run begins with."""
        return trainable(self.role, built, config, config.generator_checkpoint_path)

    @abstractmethod
    def conditions(self, batch: Batch) -> dict[str, Tensor]:
        """The keyword arguments of the network's `forward` for a batch that `fetch` gave."""

    @property
    def broken(self) -> Sequence[str]:
        return self.data.broken

    def loss(self, phase: str, batch: Batch, draws: Draws, progress: float) -> Loss:
        network = partial(self.network, **self.conditions(batch))
        return Loss(*self.objective.loss(network, batch["x0"], draws, partial(self.wanted, batch=batch)))

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
