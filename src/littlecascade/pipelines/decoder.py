"""Pictures to semantic latents, by the compressor, and back, by Stage B and Stage A."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from littlecascade.data.order import derive_seed
from littlecascade.data.pixels import to_tensor
from littlecascade.pipelines.adapting import NONE, Adapters
from littlecascade.pipelines.components import Components
from littlecascade.pipelines.prior import Words, check_finite
from littlecascade.pipelines.sampling import Settings, draw
from littlecascade.pipelines.session import Session
from littlecascade.pipelines.size import Frame
from littlecascade.pipelines.tiles import SMALLEST, decode_in_tiles, tile_side


def encode(components: Components, session: Session, images: Sequence[Image.Image], frame: Frame) -> Tensor:
    """Semantic latents (B, 16, h, w) of pictures that have the frame's size."""
    with session.part("load"):
        compressor = components.compressor
    with session.part("encode"):
        pixels = frame.fill(torch.stack([to_tensor(image) for image in images]))
        return compressor(pixels.to(components.device, components.dtype)).float()


def to_pixels(components: Components, session: Session, fine: Tensor, frame: Frame) -> Tensor:
    """Stage A: pixels (B, 3, height, width) of the frame's picture, float32 on the CPU, from its latents."""
    with session.part("load"):
        components.make_room()
        stage_a = components.stage_a
    with session.part("stage_a"):
        scarce = components.placement.offload == "block"
        side = SMALLEST if scarce else tile_side(components.device, stage_a.dtype)
        return frame.cut(decode_in_tiles(stage_a, fine, side).float().cpu())


def draw_fine(
    components: Components,
    session: Session,
    latents: Tensor,
    seeds: Sequence[int],
    frame: Frame,
    settings: Settings,
    words: Words | None = None,
    adapters: Adapters = NONE,
) -> Tensor:
    """Stage B: Stage A's latents (B, 4, H / 4, W / 4), from semantic latents (B, 16, h, w) and the prompts' words."""
    latents = latents.to(components.device)
    with session.part("load"):
        stage_b = components.stage_b
    with session.part("stage_b"), adapters.on("stage_b", stage_b, components.device) as injection:
        pooled, negative = (None, None) if words is None else (words.prompts.pooled, words.negative.pooled)
        conditions = stage_b.encode_conditions(latents, pooled, size=frame.stage_a)
        against = None
        if settings.guidance != 1:  # away from no latents at all, as the official release does it
            against = stage_b.encode_conditions(torch.zeros_like(latents[:1]), negative, size=frame.stage_a)
        shape = (len(latents), stage_b.config.trunk.in_channels, *frame.stage_a)
        own = [derive_seed(seed, 1) for seed in seeds]
        watch = injection.watch(session.watch("b", latents))
        parametrisation = components.parametrisation("stage_b")
        fine = draw(stage_b, shape, conditions, against, parametrisation, settings, own, watch)
        return check_finite(fine, "Stage B", components)
