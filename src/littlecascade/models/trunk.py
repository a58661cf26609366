"""The U-shaped network that Stage B and Stage C share.

Parameters bear the official release's names, so that its files load as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, count
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.utils.checkpoint import checkpoint

from littlecascade.errors import InputError
from littlecascade.models.config import TrunkConfig
from littlecascade.nn.blocks import (
    AttentionBlock,
    Block,
    Downscale,
    Factor,
    Norm,
    Patchify,
    Pointwise,
    ResBlock,
    SwitchDown,
    SwitchUp,
    TimestepBlock,
    Unpatchify,
    Upscale,
    resize,
)
from littlecascade.nn.embeddings import time_embedding

_NO_CONDITIONS: Mapping[str, Tensor | None] = {}


class Trunk(nn.Module):
    """Blocks on the way down, then on the way up, with a skip connection into the first block of each level."""

    checkpointing: bool = False
    """Recompute the blocks in the backward pass, a few at a time (see `_groups`), in place of keeping what they made on
    the way (`torch.utils.checkpoint`)."""

    divisor: float = 1.0
    """By what the residual stream is divided, see `divide_stream`."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.trunk_config = config
        self.factors: Mapping[str, Factor] = {}
        """What the weights have been multiplied by, by name, see `divide_stream`."""
        widths = config.widths
        down, up = range(len(widths)), range(len(widths) - 1, -1, -1)
        self.embedding = nn.Sequential(
            Patchify(config.patch), Pointwise(config.in_channels * config.patch**2, widths[0]), Norm(widths[0])
        )
        self.down_blocks = nn.ModuleList(
            _blocks(config, level, depth) for level, depth in zip(down, config.down_depths, strict=True)
        )
        self.down_downscalers = nn.ModuleList(_downscaler(config, level) for level in down)
        self.down_repeat_mappers = nn.ModuleList(
            _mappers(widths[level], repeats) for level, repeats in zip(down, config.down_repeats, strict=True)
        )
        self.up_blocks = nn.ModuleList(
            _blocks(config, level, depth, skip_width=widths[level] if level != up[0] else 0)
            for level, depth in zip(up, config.up_depths, strict=True)
        )
        self.up_upscalers = nn.ModuleList(_upscaler(config, level) for level in up)
        self.up_repeat_mappers = nn.ModuleList(
            _mappers(widths[level], repeats) for level, repeats in zip(up, config.up_repeats, strict=True)
        )
        self.clf = nn.Sequential(
            Norm(widths[0]), Pointwise(widths[0], config.out_channels * config.patch**2), Unpatchify(config.patch)
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of everything between the time embedding and the prediction."""
        return self.get_parameter("clf.1.weight").dtype

    @property
    def smallest_side(self) -> int:
        """The smallest height and width of latents that still have a position left at the coarsest level."""
        config = self.trunk_config
        halvings = len(config.widths) - 1 if config.switch_level is None else 0
        return config.patch * (2**halvings - 1) + 1

    def initialise(self, generator: Generator | None = None) -> None:
        """Draw weights to train from scratch, the same ones from the same `generator`.

        Xavier-uniform matrices, no bias; what a res block adds is scaled by sqrt(1 / depth of the way down), so that
        the stream's variance does not grow with depth; time and prediction start at zero.
        """
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1 or name.endswith((".gamma", ".beta")):
                nn.init.zeros_(parameter)
            else:
                nn.init.xavier_uniform_(parameter, generator=generator)
        nn.init.xavier_uniform_(self.get_parameter("embedding.1.weight"), gain=0.02, generator=generator)
        nn.init.zeros_(self.get_parameter("clf.1.weight"))
        gain = sum(self.trunk_config.down_depths) ** -0.5
        for level in chain(self._way_down(), self._way_up()):
            for block in level.blocks:
                block.initialise(gain, generator)

    def divide_stream(self, scale: float) -> Division:
        """Divide the residual stream by `scale`, so that float16 can hold it, with no change of the prediction.

        All that reads the stream is a norm without scale and shift, or linear. What is not a weight is changed here;
        the weights are left to the caller, who may not have read them yet. The inverse of a scale undoes it.
        """
        factors: dict[str, Factor] = {}
        for name, block in self.named_modules():
            if isinstance(block, Block):
                factors |= {f"{name}.{own}": factor for own, factor in block.divide_stream(scale).items()}
        for name in ("down_downscalers", "up_upscalers"):
            factors |= {f"{name}.{own}": 1 / scale for own, _ in self.get_submodule(name).named_parameters()}
        for name in ("down_repeat_mappers", "up_repeat_mappers"):
            biases = (own for own, _ in self.get_submodule(name).named_parameters() if own.endswith(".bias"))
            factors |= {f"{name}.{own}": 1 / scale for own in biases}
        for norm in _norms(self.down_downscalers, self.up_upscalers, self.clf):
            norm.reads_divided(scale)
        for norm in _norms(*self.stream_sources()):
            norm.gain /= scale
        self.divisor *= scale
        self.factors = {name: factor * self.factors.get(name, 1.0) for name, factor in factors.items()}
        wide = tuple(f"{name}.channelwise." for name, block in self.named_modules() if getattr(block, "wide", False))
        return Division(factors, frozenset(name for name, _ in self.named_parameters() if name.startswith(wide)))

    def stream_sources(self) -> list[nn.Module]:
        """What the stream begins with; each ends in a norm."""
        return [self.embedding]

    def embed_times(self, time: Tensor, conditions: Mapping[str, Tensor | None] = _NO_CONDITIONS) -> Tensor:
        """time and each of `conditions`: (B,), or None for zeros. Returns (B, time_width * (1 + time_conditions)).

        Raises ValueError for a condition that the trunk does not have.
        """
        names = self.trunk_config.time_conditions
        for name, values in conditions.items():
            if name not in names and values is not None:
                raise ValueError(f"this network takes no {name!r}; it takes {', '.join(names) or 'the time alone'}")
        given = (conditions.get(name) for name in names)
        values = [time, *(torch.zeros_like(time) if value is None else value for value in given)]
        return torch.cat([time_embedding(v, self.trunk_config.time_width) for v in values], dim=1).to(self.dtype)

    def run(
        self,
        x: Tensor,
        time: Tensor,
        tokens: Tensor,
        *,
        stream: Tensor | None = None,
        conditions: Mapping[str, Tensor | None] = _NO_CONDITIONS,
        control: Mapping[int, Tensor] | None = None,
    ) -> Tensor:
        """The prediction for noisy latents.

        x: (B, C, H, W); sides that `patch` does not divide are padded, and the prediction is cropped.
        time: (B,), the cosine schedule's t in [0, 1]. tokens: (B, M, cond_width). conditions: see `embed_times`.
        stream: (B or 1, h or 1, w or 1, widths[0]), added to the embedded latents. control: residuals (B, C', h', w')
        of a ControlNet by the number of the res block that they are added before, counted over all visits on the way
        down, then up; they are resized to the map at hand.
        Returns (B, out_channels, H, W) in x's dtype. Raises InputError for latents under `smallest_side`.
        """
        if min(x.shape[2:]) < self.smallest_side:
            raise InputError(
                f"Latents of {x.shape[2]} x {x.shape[3]} are too small for {type(self).__name__}: "
                f"each side needs {self.smallest_side} or more."
            )
        residuals = iter(()) if control is None else (control.get(number) for number in count())
        context = {"time": self.embed_times(time, conditions), "text": tokens.to(self.dtype)}
        hidden = self.embedding(x.to(self.dtype))
        if stream is not None:
            hidden = hidden + stream
        skips: list[Tensor | None] = []
        for level in self._way_down():
            hidden = self._run_level(level, level.scaler(hidden), context, residuals)
            skips.append(hidden)
        skips[-1] = None  # the way up starts where the way down ended
        for level in self._way_up():
            hidden = level.scaler(self._run_level(level, hidden, context, residuals, skips.pop()))
        return self.clf(hidden)[..., : x.shape[2], : x.shape[3]].to(x.dtype)

    def _run_level(
        self,
        level: _Level,
        x: Tensor,
        context: Mapping[str, Tensor],
        residuals: Iterator[Tensor | None],
        skip: Tensor | None = None,
    ) -> Tensor:
        """Run a level's blocks once, and again after each of its mappers. The first block reads `skip` each time."""
        if skip is not None:
            x = resize(x, (skip.shape[1], skip.shape[2]))
        for mapper in (nn.Identity(), *level.mappers):
            x = mapper(x)
            for number, blocks in enumerate(_groups(level.blocks)):
                if blocks[0].controllable and (residual := next(residuals, None)) is not None:
                    residual = resize(residual.permute(0, 2, 3, 1) / self.divisor, (x.shape[1], x.shape[2]))
                    x = x + residual.to(x.dtype)
                x = self._run_blocks(blocks, x, skip=skip if number == 0 else None, **context)
        return x

    def _run_blocks(self, blocks: Sequence[Block], x: Tensor, **context: Tensor | None) -> Tensor:
        run = partial(_through, blocks, **context)
        if self.checkpointing and torch.is_grad_enabled() and _wants_gradient(blocks, x, *context.values()):
            return checkpoint(run, x, use_reentrant=False)
        return run(x)

    def _way_down(self) -> Iterator[_Level]:
        return map(_Level, self.down_downscalers, self.down_blocks, self.down_repeat_mappers)

    def _way_up(self) -> Iterator[_Level]:
        return map(_Level, self.up_upscalers, self.up_blocks, self.up_repeat_mappers)


class Division(NamedTuple):
    """What `Trunk.divide_stream` asks of the weights: factors by name, and names of those to keep in float32."""

    factors: Mapping[str, Factor]
    wide: frozenset[str]


class _Level(NamedTuple):
    """A level on the way down, with the change to it, or on the way up, with the change from it to the next."""

    scaler: nn.Module
    blocks: Any  # an `nn.ModuleList` of `Block`
    mappers: Any  # an `nn.ModuleList`


def _groups(blocks: Iterable[Block]) -> list[list[Block]]:
    """Blocks in turn, in groups that each begin with one that is controllable, as far as there are any."""
    groups: list[list[Block]] = []
    for block in blocks:
        if block.controllable or not groups:
            groups.append([])
        groups[-1].append(block)
    return groups


def _through(blocks: Sequence[Block], x: Tensor, *, skip: Tensor | None = None, **context: Tensor) -> Tensor:
    """What some blocks make of x one after the other; the first one reads `skip`."""
    for block in blocks:
        x, skip = block(x, skip=skip, **context), None
    return x


def _wants_gradient(blocks: Iterable[Block], *given: Tensor | None) -> bool:
    """Whether any gradient flows into blocks; if none does, they keep nothing that could be made anew."""
    parameters = (parameter for block in blocks for parameter in block.parameters())
    return any(own is not None and own.requires_grad for own in chain(given, parameters))


def _norms(*modules: nn.Module) -> list[Norm]:
    return [norm for module in modules for norm in module.modules() if isinstance(norm, Norm)]


def _blocks(config: TrunkConfig, level: int, depth: int, skip_width: int = 0) -> nn.ModuleList:
    """`depth` times the level's layout; the first block of all reads a skip of `skip_width` channels."""
    width, dropout = config.widths[level], config.dropout[level]

    def make(kind: str, skip_width: int) -> Block:
        match kind:
            case "C":
                return ResBlock(width, skip_width, config.kernel, dropout)
            case "T":
                return TimestepBlock(width, config.time_width, config.time_conditions)
            case _:
                return AttentionBlock(width, config.cond_width, config.heads[level], dropout, config.self_attention)

    kinds = config.layouts[level] * depth
    return nn.ModuleList(make(kind, 0 if number else skip_width) for number, kind in enumerate(kinds))


def _mappers(width: int, repeats: int) -> nn.ModuleList:
    return nn.ModuleList(Pointwise(width, width) for _ in range(repeats - 1))


def _downscaler(config: TrunkConfig, level: int) -> nn.Module:
    """From the next finer level to `level`."""
    if level == 0:
        return nn.Identity()
    finer, width = config.widths[level - 1], config.widths[level]
    if config.switch_level is None:
        return nn.Sequential(Norm(finer), Downscale(finer, width))
    return nn.Sequential(Norm(finer), SwitchDown(finer, width, config.switch_level[level - 1]))


def _upscaler(config: TrunkConfig, level: int) -> nn.Module:
    """From `level` to the next finer level."""
    if level == 0:
        return nn.Identity()
    finer, width = config.widths[level - 1], config.widths[level]
    if config.switch_level is None:
        return nn.Sequential(Norm(width), Upscale(width, finer))
    return nn.Sequential(Norm(width), SwitchUp(width, finer, config.switch_level[level - 1]))
