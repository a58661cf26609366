"""Pictures to semantic latents, by the compressor, and back, by Stage B and Stage A."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from littlecascade.data.order import derive_seed
from littlecascade.data.pixels import to_tensor
from littlecascade.pipelines.components import Components
from littlecascade.pipelines.sampling import Settings, draw
from littlecascade.pipelines.session import Session
from littlecascade.pipelines.size import Frame


def encode(components: Components, session: Session, images: Sequence[Image.Image], frame: Frame) -> Tensor:
    """Semantic latents (B, 16, h, w) of pictures that have the frame's size."""
    with session.part("load"):
        compressor = components.compressor
    with session.part("encode"):
        pixels = frame.fill(torch.stack([to_tensor(image) for image in images]))
        return compressor(pixels.to(components.device, components.dtype)).float()


def decode(
    components: Components,
    session: Session,
    latents: Tensor,
    seeds: Sequence[int],
    frame: Frame,
    settings: Settings,
    pooled: Tensor | None = None,
    negative: Tensor | None = None,
) -> Tensor:
    """Pixels (B, 3, height, width) of the frame's picture, float32 on the CPU.

    pooled (B, 1, P), negative (1, 1, P): pooled embeddings of the prompts and of what guidance leads away from.
    """
    fine = _draw_fine(components, session, latents.to(components.device), seeds, frame, settings, pooled, negative)
    with session.part("load"):
        stage_a = components.stage_a
    with session.part("stage_a"):
        return frame.cut(stage_a.decode(fine).float().cpu())


def _draw_fine(
    components: Components,
    session: Session,
    latents: Tensor,
    seeds: Sequence[int],
    frame: Frame,
    settings: Settings,
    pooled: Tensor | None,
    negative: Tensor | None,
) -> Tensor:
    """Stage B: Stage A's latents (B, 4, H / 4, W / 4). On return nothing holds Stage B, which may have to make room."""
    with session.part("load"):
        stage_b = components.stage_b
    with session.part("stage_b"):
        conditions = stage_b.encode_conditions(latents, pooled, size=frame.stage_a)
        against = None
        if settings.guidance != 1:  # away from no latents at all, as the official release does it
            against = stage_b.encode_conditions(torch.zeros_like(latents[:1]), negative, size=frame.stage_a)
        shape = (len(latents), stage_b.config.trunk.in_channels, *frame.stage_a)
        own = [derive_seed(seed, 1) for seed in seeds]
        watch = session.watch("b", latents)
        return draw(stage_b, shape, conditions, against, components.parametrisation("stage_b"), settings, own, watch)
