"""What each network is built from: frozen dataclasses of plain values, stored as JSON beside the weights.

The sizes that have names are in `littlecascade.presets`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from littlecascade.errors import InputError, suggest

Config = TypeVar("Config")


@dataclass(frozen=True)
class TrunkConfig:
    """The U-shaped network that Stage B and Stage C share. Tuples have one entry per level, finest level
    first; those that start with `up_` in the order of the way up, coarsest level first.

    in_channels, out_channels: of the noisy latents and of the prediction.
    patch: side of the square of latent pixels that becomes one position of the trunk.
    cond_width: width of the conditioning tokens that attention reads.
    widths, heads: channels and attention heads (unused, and 0, at levels without attention).
    down_depths, up_depths: how often a level's layout is stacked on the way down and on the way up.
    down_repeats, up_repeats: how often a level's stack is run, a 1x1 convolution between two runs.
    layouts: the blocks of one unit of depth, in order: C (res), T (timestep), A (attention).
    dropout: probability, per level.
    time_width: width of the sinusoidal embedding of the time and of each of `time_conditions`.
    switch_level: None: a level has half the resolution of the one before, by strided convolution. A tuple of
        len(widths) - 1: whether each change of level changes the resolution, bilinearly.
    """

    in_channels: int
    out_channels: int
    patch: int
    cond_width: int
    widths: tuple[int, ...]
    heads: tuple[int, ...]
    down_depths: tuple[int, ...]
    up_depths: tuple[int, ...]
    down_repeats: tuple[int, ...]
    up_repeats: tuple[int, ...]
    layouts: tuple[str, ...]
    dropout: tuple[float, ...]
    time_width: int = 64
    kernel: int = 3
    self_attention: bool = True
    time_conditions: tuple[str, ...] = ("sca", "crp")
    switch_level: tuple[bool, ...] | None = None

    def __post_init__(self) -> None:
        per_level = (
            "heads", "down_depths", "up_depths", "down_repeats", "up_repeats", "layouts", "dropout",
        )  # fmt: skip
        levels = len(self.widths)
        for name in per_level:
            _expect_length("TrunkConfig", name, getattr(self, name), levels)
        if self.switch_level is not None:
            _expect_length("TrunkConfig", "switch_level", self.switch_level, levels - 1)
        for name in ("down_repeats", "up_repeats"):
            for level, repeats in enumerate(getattr(self, name)):
                if repeats < 1:
                    raise InputError(f"TrunkConfig: {name}[{level}] is {repeats}; a level is run once or more.")
        for level, (layout, width, heads) in enumerate(zip(self.layouts, self.widths, self.heads, strict=True)):
            if not layout or set(layout) - set("CTA"):
                raise InputError(f"TrunkConfig: layouts[{level}] is {layout!r}; it takes the letters C, T and A.")
            if "A" in layout and (heads < 1 or width % heads):
                raise InputError(f"TrunkConfig: heads[{level}] is {heads}, which does not divide the width {width}.")


@dataclass(frozen=True)
class StageCConfig:
    """Stage C: text and image embeddings to semantic latents.

    text_width, pooled_width, image_width: of the text tower's hidden states, of the pooled text embedding, and of the
    image embedding. tokens_per_vector: how many conditioning tokens each of the two single vectors becomes.
    """

    trunk: TrunkConfig
    text_width: int = 1280
    pooled_width: int = 1280
    image_width: int = 768
    tokens_per_vector: int = 4


@dataclass(frozen=True)
class StageBConfig:
    """Stage B: semantic latents to Stage A's latents.

    effnet_channels: channels of the semantic latents, which the compressor makes and Stage C predicts.
    pixel_channels: channels of the optional low-resolution picture.
    """

    trunk: TrunkConfig
    pooled_width: int = 1280
    tokens_per_vector: int = 4
    effnet_channels: int = 16
    pixel_channels: int = 3


@dataclass(frozen=True)
class StageAConfig:
    """Stage A: the autoencoder between pixels and Stage B's latents.

    levels: each after the first halves the side, the first one after a pixel unshuffle by two: side / 2**levels.
    bottleneck_depth: residual blocks of the decoder's coarsest level. width: channels of the coarsest level, half
    of it at each finer one. codebook_size: vectors in the quantiser. scale: divides the latents.
    """

    levels: int = 2
    bottleneck_depth: int = 12
    width: int = 384
    latent_channels: int = 4
    codebook_size: int = 8192
    scale: float = 0.43


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The patch discriminator that Stage A is trained against: `depth` strided convolutions, `width` channels last."""

    in_channels: int = 3
    width: int = 512
    depth: int = 6


@dataclass(frozen=True)
class StageSpec:
    """One stage of an EfficientNetV2: `depth` blocks, of which the first has the stride and changes the channels.

    kind: "fused" (FusedMBConv) or "mb" (MBConv with squeeze and excitation). expand: hidden channels per input channel.
    """

    kind: Literal["fused", "mb"]
    expand: int
    kernel: int
    stride: int
    in_channels: int
    out_channels: int
    depth: int


@dataclass(frozen=True)
class CompressorConfig:
    """The semantic compressor: an EfficientNetV2 whose `head`-wide features become `latent_channels` channels."""

    stem: int
    stages: tuple[StageSpec, ...]
    head: int = 1280
    latent_channels: int = 16


@dataclass(frozen=True)
class PreviewerConfig:
    """The previewer: semantic latents to a small picture.

    The map's side doubles for each of `widths` after the first, and each position of the last map becomes a square of
    `patch` pixels.
    """

    latent_channels: int = 16
    widths: tuple[int, ...] = (512, 256, 128, 128)
    patch: int = 1


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain values that JSON can hold. `from_dict` is its inverse."""
    return asdict(config)


def from_dict(cls: type[Config], mapping: Mapping[str, Any]) -> Config:
    """Build the config `cls` from plain values, lists standing for tuples and mappings for nested configs.

    Raises InputError for a name that `cls` does not have, a missing value, or a value of another type.
    """
    if not isinstance(mapping, Mapping):
        raise InputError(f"{cls.__name__} takes a mapping of names to values, not {mapping!r}.")
    declared = {field.name: field for field in fields(cast(Any, cls))}
    for name in mapping:
        if name not in declared:
            raise InputError(f"{cls.__name__} has no {name!r}.{suggest(name, declared)} It has: {', '.join(declared)}.")
    required = [n for n, f in declared.items() if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in required if name not in mapping]
    if missing:
        raise InputError(f"{cls.__name__} lacks {', '.join(missing)}.")
    hints = get_type_hints(cls)
    return cls(**{name: _parse(hints[name], value, f"{cls.__name__}.{name}") for name, value in mapping.items()})


def _parse(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint`; InputError where it is of another type."""
    if is_dataclass(hint):
        return from_dict(cast(Any, hint), value)
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
        raise InputError(f"{where} is {value!r}; it takes one of {', '.join(map(repr, get_args(hint)))}.")
    alternatives = [alternative for alternative in get_args(hint) if alternative is not type(None)]
    if get_origin(hint) is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(_parse(alternatives[0], item, f"{where}[{i}]") for i, item in enumerate(value))
        raise InputError(f"{where} is {value!r}; it takes a list.")
    if alternatives:  # `X | None`
        return None if value is None else _parse(alternatives[0], value, where)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise InputError(f"{where} is {value!r}; it takes a value of type {hint.__name__}.")
    return value


def _expect_length(owner: str, name: str, values: tuple[Any, ...], length: int) -> None:
    if len(values) != length:
        raise InputError(f"{owner}: {name} has {len(values)} entries, and the number of levels asks for {length}.")
