"""The sizes that have a name. Nothing in the code is special to one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from littlecascade.checkpoint import places
from littlecascade.checkpoint.derive import structure
from littlecascade.conditioning.clip import TextConfig, VisionConfig
from littlecascade.errors import InputError, suggest
from littlecascade.models.config import (
    CompressorConfig,
    PreviewerConfig,
    StageAConfig,
    StageBConfig,
    StageCConfig,
    StageSpec,
    TrunkConfig,
    to_dict,
)


@dataclass(frozen=True)
class Drawing:
    """How a cascade draws when nothing else is asked for.

    image_size: side in pixels that it draws at its best. compression: pixels per Stage C latent, along a side, when
    drawing; the compressor's own factor is 32, and Stage B accepts both. sampler, steps, guidance and rescale are Stage
    C's; Stage B has its own sampler, steps and guidance. At 1 it is unguided, at half the cost: the official Stage B
    changes little by guidance, and a small one gains sharpness and fidelity.
    """

    image_size: int
    compression: float
    sampler: str = "ddpm"
    steps: int = 20
    guidance: float = 4.0
    rescale: float = 0.7
    decoder_sampler: str = "ddpm"
    decoder_steps: int = 10
    decoder_guidance: float = 1.0


@dataclass(frozen=True)
class Preset:
    """All networks of one cascade, and how it draws."""

    name: str
    stage_a: StageAConfig
    stage_b: StageBConfig
    stage_c: StageCConfig
    compressor: CompressorConfig
    previewer: PreviewerConfig
    text: TextConfig
    image: VisionConfig
    drawing: Drawing


def _official_stage_c(width: int, heads: int, depths: tuple[int, int]) -> StageCConfig:
    return StageCConfig(
        TrunkConfig(
            in_channels=16,
            out_channels=16,
            patch=1,
            cond_width=width,
            widths=(width, width),
            heads=(heads, heads),
            down_depths=depths,
            up_depths=depths[::-1],
            down_repeats=(1, 1),
            up_repeats=(1, 1),
            layouts=("CTA", "CTA"),
            dropout=(0.1, 0.1),
            switch_level=(False,),
        )
    )


def _official_stage_b(
    widths: tuple[int, ...], heads: tuple[int, ...], depths: tuple[int, ...], up_repeats: tuple[int, ...]
) -> StageBConfig:
    return StageBConfig(
        TrunkConfig(
            in_channels=4,
            out_channels=4,
            patch=2,
            cond_width=1280,
            widths=widths,
            heads=heads,
            down_depths=depths,
            up_depths=depths[::-1],
            down_repeats=(1, 1, 1, 1),
            up_repeats=up_repeats,
            layouts=("CT", "CT", "CTA", "CTA"),
            dropout=(0.0, 0.0, 0.1, 0.1),
            time_conditions=("sca",),
        )
    )


_EFFICIENTNET_V2_S = CompressorConfig(
    stem=24,
    stages=(
        StageSpec("fused", expand=1, kernel=3, stride=1, in_channels=24, out_channels=24, depth=2),
        StageSpec("fused", expand=4, kernel=3, stride=2, in_channels=24, out_channels=48, depth=4),
        StageSpec("fused", expand=4, kernel=3, stride=2, in_channels=48, out_channels=64, depth=4),
        StageSpec("mb", expand=4, kernel=3, stride=2, in_channels=64, out_channels=128, depth=6),
        StageSpec("mb", expand=6, kernel=3, stride=1, in_channels=128, out_channels=160, depth=9),
        StageSpec("mb", expand=6, kernel=3, stride=2, in_channels=160, out_channels=256, depth=15),
    ),
)

_CLIP_BIG_G = TextConfig(width=1280, depth=32, heads=20, projection=1280, activation="gelu")
_CLIP_VIT_L = VisionConfig(width=1024, depth=24, heads=16, projection=768)

TINY = Preset(
    name="tiny",
    stage_a=StageAConfig(levels=2, bottleneck_depth=4, width=128, codebook_size=2048),
    stage_b=StageBConfig(
        TrunkConfig(
            in_channels=4,
            out_channels=4,
            patch=2,
            cond_width=256,
            widths=(96, 192, 256),
            heads=(0, 0, 4),
            down_depths=(1, 2, 2),
            up_depths=(2, 2, 1),
            down_repeats=(1, 1, 1),
            up_repeats=(1, 1, 1),
            layouts=("CT", "CT", "CTA"),
            dropout=(0.0, 0.0, 0.0),
            time_conditions=(),
        ),
        pooled_width=384,
        tokens_per_vector=2,
    ),
    stage_c=StageCConfig(
        TrunkConfig(
            in_channels=16,
            out_channels=16,
            patch=1,
            cond_width=384,
            widths=(384, 384),
            heads=(6, 6),
            down_depths=(1, 2),
            up_depths=(2, 1),
            down_repeats=(1, 1),
            up_repeats=(1, 1),
            layouts=("CTA", "CTA"),
            dropout=(0.0, 0.0),
            time_conditions=(),
            switch_level=(False,),
        ),
        text_width=192,
        pooled_width=384,
        image_width=384,
        tokens_per_vector=2,
    ),
    compressor=CompressorConfig(
        stem=16,
        stages=(
            StageSpec("fused", expand=1, kernel=3, stride=2, in_channels=16, out_channels=32, depth=1),
            StageSpec("fused", expand=2, kernel=3, stride=2, in_channels=32, out_channels=64, depth=2),
            StageSpec("fused", expand=2, kernel=3, stride=2, in_channels=64, out_channels=128, depth=2),
            StageSpec("mb", expand=4, kernel=3, stride=2, in_channels=128, out_channels=256, depth=3),
        ),
        head=512,
    ),
    previewer=PreviewerConfig(widths=(256, 192, 128, 64), patch=4),
    text=TextConfig(width=192, depth=4, heads=3, projection=384, activation="gelu", vocab_size=8192, positions=16),
    image=VisionConfig(width=192, depth=3, heads=3, projection=384, activation="gelu", image_size=128, patch=16),
    drawing=Drawing(
        image_size=128,
        compression=32.0,
        sampler="dpmpp_2m",
        guidance=3.0,
        rescale=0.0,
        decoder_sampler="ddim",
        decoder_steps=6,
        decoder_guidance=1.75,
    ),
)

LITE = Preset(
    name="lite",
    stage_a=StageAConfig(),
    stage_b=_official_stage_b((320, 576, 1152, 1152), (0, 9, 18, 18), (2, 4, 14, 4), (2, 2, 2, 2)),
    stage_c=_official_stage_c(1536, 24, (4, 12)),
    compressor=_EFFICIENTNET_V2_S,
    previewer=PreviewerConfig(),
    text=_CLIP_BIG_G,
    image=_CLIP_VIT_L,
    drawing=Drawing(image_size=1024, compression=42.67),
)

FULL = Preset(
    name="full",
    stage_a=StageAConfig(),
    stage_b=_official_stage_b((320, 640, 1280, 1280), (0, 0, 20, 20), (2, 6, 28, 6), (3, 3, 2, 2)),
    stage_c=_official_stage_c(2048, 32, (8, 24)),
    compressor=_EFFICIENTNET_V2_S,
    previewer=PreviewerConfig(),
    text=_CLIP_BIG_G,
    image=_CLIP_VIT_L,
    drawing=Drawing(image_size=1024, compression=42.67),
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in (TINY, LITE, FULL)}


def find_preset(name: str) -> Preset:
    """The preset of a size, by our name or by the official `model_version` (Stage C: 1B, 3.6B; Stage B: 700M, 3B).

    Raises `InputError` for a name that is neither.
    """
    own = places.VERSIONS.get(name, name)
    if own not in PRESETS:
        known = (*PRESETS, *places.VERSIONS)
        raise InputError(f"Unknown size {name!r}; there are {', '.join(known)}.{suggest(name, known)}")
    return PRESETS[own]


def sizes_of(role: str, config: Mapping[str, Any]) -> list[str]:
    """The sizes whose stage_a, stage_b, stage_c, compressor, previewer, text or image has weights of the same shapes.

    config: plain values.
    """
    shapes = structure(config)
    return [name for name, preset in PRESETS.items() if structure(to_dict(getattr(preset, role))) == shapes]
