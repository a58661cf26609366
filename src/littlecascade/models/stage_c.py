"""Stage C: from text and image embeddings to semantic latents."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Generator, Tensor, nn

from littlecascade.models.config import StageCConfig
from littlecascade.models.trunk import Trunk
from littlecascade.nn.blocks import Norm


class StageC(Trunk):
    """Predicts the noise (or what it was trained to predict) in semantic latents."""

    def __init__(self, config: StageCConfig) -> None:
        super().__init__(config.trunk)
        self.config = config
        cond_width = config.trunk.cond_width
        self.clip_txt_mapper = nn.Linear(config.text_width, cond_width)
        self.clip_txt_pooled_mapper = nn.Linear(config.pooled_width, cond_width * config.tokens_per_vector)
        self.clip_img_mapper = nn.Linear(config.image_width, cond_width * config.tokens_per_vector)
        self.clip_norm = Norm(cond_width)

    def initialise(self, generator: Generator | None = None) -> None:
        super().initialise(generator)
        for mapper in (self.clip_txt_mapper, self.clip_txt_pooled_mapper, self.clip_img_mapper):
            nn.init.normal_(mapper.weight, std=0.02, generator=generator)

    def encode_conditions(
        self, text: Tensor, pooled: Tensor | None = None, image: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The keyword arguments of `forward` that hold for a prompt, whatever the latents and the time.

        text: (B, T, text_width), the text tower's hidden states; pooled: (B, 1, pooled_width), its pooled embedding;
        image: (B, N, image_width), image embeddings. What is not given counts as one vector of zeros.
        Returns {"tokens": (B, T + (1 + N) * tokens_per_vector, cond_width)}.
        """
        text = text.to(self.dtype)
        pooled = text.new_zeros(len(text), 1, self.config.pooled_width) if pooled is None else pooled.to(self.dtype)
        image = text.new_zeros(len(text), 1, self.config.image_width) if image is None else image.to(self.dtype)
        tokens = [
            self.clip_txt_mapper(text),
            self.clip_txt_pooled_mapper(pooled).reshape(len(text), -1, self.config.trunk.cond_width),
            self.clip_img_mapper(image).reshape(len(text), -1, self.config.trunk.cond_width),
        ]
        return {"tokens": self.clip_norm(torch.cat(tokens, dim=1))}

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        *,
        tokens: Tensor,
        sca: Tensor | None = None,
        crp: Tensor | None = None,
        control: Mapping[int, Tensor] | None = None,
    ) -> Tensor:
        """x: (B, in_channels, H, W), time, sca and crp: (B,), tokens from `encode_conditions`, control as for
        `Trunk.run`. Returns (B, out_channels, H, W) in x's dtype.
        """
        return self.run(x, time, tokens, conditions={"sca": sca, "crp": crp}, control=control)
