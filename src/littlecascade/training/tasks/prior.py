"""What is to stay as it is while a LoRA is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from littlecascade.training.draws import Draws
from littlecascade.training.task import Batch
from littlecascade.training.tasks.common import choose

Words = Callable[[Sequence[str], Tensor, Draws | None], dict[str, Tensor]]


@dataclass(frozen=True)
class Prior:
    """Prompts with latents (N, C, h, w) that the model draws for them, and the share of samples that they take.

    Prior preservation (Ruiz et al. 2023, DreamBooth), with what the model itself says of the noisy latents in place of
    the latents as what is to be learned: so nothing pulls at a model that has not moved.
    """

    prompts: Sequence[str]
    latents: Tensor
    share: float

    def mix(self, batch: Batch, words: Words, draws: Draws) -> Batch:
        """Put prompts and their latents in the place of some samples; "kept", (B,) bool, says which.

        words: makes of prompts what the batch holds of its captions.
        """
        kept = draws.chance(self.share)
        picks = [pick % len(self.prompts) for pick in draws.integers(1 << 30)]
        own = words([self.prompts[pick] for pick in picks], torch.ones_like(kept), None)
        own["x0"] = self.latents[picks]
        if own["x0"].shape != batch["x0"].shape:
            own["x0"] = F.interpolate(own["x0"], batch["x0"].shape[2:], mode="bilinear")
        if "image" in batch:
            own["image"] = torch.zeros_like(batch["image"])
        return {**batch, **{name: choose(kept, value, batch[name]) for name, value in own.items()}, "kept": kept}
