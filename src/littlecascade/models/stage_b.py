"""Stage B: from semantic latents to Stage A's latents."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Generator, Tensor, nn

from littlecascade.models.config import StageBConfig
from littlecascade.models.trunk import Trunk
from littlecascade.nn.blocks import Norm, Pointwise, resize


class StageB(Trunk):
    """Predicts the noise (or what it was trained to predict) in Stage A's latents."""

    def __init__(self, config: StageBConfig) -> None:
        super().__init__(config.trunk)
        self.config = config
        width, cond_width = config.trunk.widths[0], config.trunk.cond_width
        self.effnet_mapper = _mapper(config.effnet_channels, width)
        self.pixels_mapper = _mapper(config.pixel_channels, width)
        self.clip_mapper = nn.Linear(config.pooled_width, cond_width * config.tokens_per_vector)
        self.clip_norm = Norm(cond_width)

    def initialise(self, generator: Generator | None = None) -> None:
        super().initialise(generator)
        for name in ("clip_mapper", "effnet_mapper.0", "effnet_mapper.2", "pixels_mapper.0", "pixels_mapper.2"):
            nn.init.normal_(self.get_parameter(f"{name}.weight"), std=0.02, generator=generator)

    def stream_sources(self) -> list[nn.Module]:
        return [*super().stream_sources(), self.effnet_mapper, self.pixels_mapper]

    def encode_conditions(
        self, effnet: Tensor, pooled: Tensor | None = None, pixels: Tensor | None = None, *, size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """The keyword arguments of `forward` that hold for a picture, whatever the noise and the time.

        effnet: (B, effnet_channels, h, w), semantic latents of any size, zeros for none. pooled: (B, 1, pooled_width),
        the pooled text embedding; pixels: (B, pixel_channels, h', w'); what is not given counts as zeros.
        size: (H, W) of the latents that `forward` will be given.
        Returns {"tokens": (B, tokens_per_vector, cond_width), "stream": (B, ceil(H / patch), ceil(W / patch), width)}.
        """
        effnet = effnet.to(self.dtype)
        pooled = effnet.new_zeros(len(effnet), 1, self.config.pooled_width) if pooled is None else pooled.to(self.dtype)
        pixels = effnet.new_zeros(1, self.config.pixel_channels, 1, 1) if pixels is None else pixels.to(self.dtype)
        patch = self.config.trunk.patch
        height, width = (-(-side // patch) for side in size)
        stream = self.effnet_mapper(resize(effnet.permute(0, 2, 3, 1), (height, width)))
        stream = stream + resize(self.pixels_mapper(pixels.permute(0, 2, 3, 1)), (height, width))
        tokens = self.clip_mapper(pooled).reshape(len(effnet), -1, self.config.trunk.cond_width)
        return {"tokens": self.clip_norm(tokens), "stream": stream}

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        *,
        tokens: Tensor,
        stream: Tensor,
        sca: Tensor | None = None,
        control: Mapping[int, Tensor] | None = None,
    ) -> Tensor:
        """x: (B, in_channels, H, W), time and sca: (B,), tokens and stream from `encode_conditions`, control as for
        `Trunk.run`. Returns (B, out_channels, H, W) in x's dtype.
        """
        return self.run(x, time, tokens, stream=stream, conditions={"sca": sca}, control=control)


def _mapper(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(Pointwise(channels, 4 * width), nn.GELU(), Pointwise(4 * width, width), Norm(width))
