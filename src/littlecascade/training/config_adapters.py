"""The run configurations of what is trained beside a frozen Stage B or C: a LoRA, a ControlNet.

The keys are the official ones but for those marked as ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from littlecascade.adapters.tokens import is_new
from littlecascade.errors import InputError, suggest
from littlecascade.training.config import Beta, DiffusionRun, Share, StageBRun, StageCRun

_LEAST = 0.1
"""Of its usual size, how far training has to be able to move a weight for a difference to be seen."""

_BASE = frozenset({"generator_checkpoint_path"})
_CHANGES = frozenset({"module_filters", "rank", "lora_alpha", "lora_type"})

Name = Annotated[str, Field(min_length=1)]


class AdapterRun(DiffusionRun):
    """What needs a Stage B or C to be trained on."""

    on_frozen: ClassVar[bool] = True

    base_weights: Literal["same", "int8", "nf4"] = "same"  # ours; what its matrices are kept in

    def check(self) -> None:
        super().check()
        if self.generator_checkpoint_path is None:
            raise InputError("generator_checkpoint_path is missing: it names the stage that this is trained on.")


class _LoraKeys(AdapterRun):
    """Low-rank changes of weights."""

    stage: ClassVar[str]
    """The role of the network that is changed."""

    rank: PositiveInt
    module_filters: Annotated[tuple[Name, ...], Field(min_length=1)] = (".attn",)  # parts of the names of modules
    lora_checkpoint_path: Path | None = None  # changes to go on from; tokens begin anew
    lora_alpha: PositiveFloat = 1.0  # ours; changes are scaled by lora_alpha / rank, in the official code by 1 / rank
    lora_type: Literal["lora", "dora", "loha", "lokr"] = "lora"  # ours
    lora_dropout: Beta = 0.0  # ours
    prior_prompts: tuple[Name, ...] = ()  # ours; prompts whose pictures are to stay as they are
    prior_share: Share = 0.5  # ours; the samples that these take the place of, if there are any

    @property
    def form(self) -> str:
        """The format of the file that it ends in: the official one, which holds LoRAs of one network, or ComfyUI's."""
        return "official" if self.lora_type == "lora" else "comfy"

    @property
    def reach(self) -> float:
        """How far this run can move a weight, at most, about.

        The official LoRA changes W by (alpha / rank) U D with D = 0 and U ~ N(0, 1). Adam moves a value of D by the
        learning rate in each update, if that much (Kingma & Ba 2015, section 2.1), and of `rank` products with U a sum
        comes to the root of `rank`.
        """
        return self.lora_alpha / math.sqrt(self.rank) * self.lr * self.updates

    def remarks(self) -> list[str]:
        """With a warning where the LoRA is bound to change nothing that can be seen."""
        from littlecascade.presets import find_preset

        width = max(getattr(find_preset(self.model_version), self.stage).trunk.widths)
        usual = 1 / math.sqrt(width)
        remarks = super().remarks()
        if self.lora_type in ("lora", "dora") and self.reach < _LEAST * usual:
            raised = [f"lora_alpha (to {self.rank}, say)"] if self.lora_alpha < self.rank else []
            raised += ["lr (to 1e-4, say)"] if self.lr < 1e-4 else []
            remarks.append(
                f"this LoRA can't learn: rank {self.rank}, lora_alpha {self.lora_alpha:g} and lr {self.lr:g} move a "
                f"weight by {self.reach:.1g} at most in {self.updates:,} updates, where weights are about {usual:.1g}. "
                f"Raise {' or '.join([*raised, 'updates'])}."
            )
        if self.rank > width:
            remarks.append(f"rank {self.rank} is more than the {width} channels that there are: it only takes memory.")
        return remarks


class LoraRun(StageCRun, _LoraKeys):
    """Low-rank changes of the weights of Stage C, and of the text tower, and tokens of its vocabulary."""

    stage: ClassVar[str] = "stage_c"
    fixed: ClassVar[frozenset[str]] = StageCRun.fixed | _BASE | _CHANGES | {"text_module_filters", "train_tokens"}

    text_module_filters: tuple[Name, ...] = ()  # ours; parts of the names of the text tower's modules
    train_tokens: tuple[tuple[Name, str | None], ...] = ()  # a token or a pattern, and what it starts as the mean of

    @property
    def form(self) -> str:
        return "comfy" if self.text_module_filters else super().form

    @property
    def trains_words(self) -> bool:
        """Whether embeddings of captions change in the run, so that they can't be kept."""
        return bool(self.train_tokens or self.text_module_filters)

    def check(self) -> None:
        super().check()
        for pattern in (text for pair in self.train_tokens for text in pair if text is not None):
            try:
                re.compile(pattern)
            except re.error as error:
                raise InputError(f"train_tokens: {pattern!r} is no regular expression: {error}.") from None
        known = [first for first, _ in self.train_tokens if not is_new(first)]
        if known and self.form != "official":
            which = "text_module_filters" if self.lora_type == "lora" else f"lora_type {self.lora_type}"
            raise InputError(
                f"train_tokens: {known[0]!r} changes tokens of the vocabulary, for which only the official format has "
                f"a place, and that has none for {which}: leave that out, or train a new token that starts as those, "
                f"['[mine]', {known[0]!r}]."
            )


class LoraBRun(StageBRun, _LoraKeys):
    """Low-rank changes of the weights of Stage B, which draws the details."""

    stage: ClassVar[str] = "stage_b"
    fixed: ClassVar[frozenset[str]] = StageBRun.fixed | _BASE | _CHANGES


class _Params(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Resized(_Params):
    resize: PositiveInt | None = 224


class _Qr(_Resized):
    blobify: bool = True
    dilation_kernels: tuple[NonNegativeInt, ...] = (3, 5, 7)
    blur_kernels: tuple[NonNegativeInt, ...] = (15,)


class _Pidi(_Resized):
    dilation_kernels: tuple[NonNegativeInt, ...] = (0, 3, 5, 7, 9)
    binarize: bool = True


class _Inpaint(_Params):
    thresold: tuple[Share, Share] = (0.04, 0.4)  # misspelt so in the official files
    p_outpaint: Share = 0.4


class _Identity(_Params):
    max_faces: PositiveInt = 4
    p_drop: Share = 0.05
    p_full: Share = 0.3


class _SuperResolution(_Params):
    scale_factor: Annotated[float, Field(gt=0, le=1)] = 0.25


class _EffnetSuperResolution(_Params):
    scale_factor: Annotated[float, Field(gt=0, le=1)] = 0.5


FILTERS: Mapping[str, type[BaseModel]] = {
    "CannyFilter": _Resized,
    "InpaintFilter": _Inpaint,
    "IdentityFilter": _Identity,
    "SREffnetFilter": _EffnetSuperResolution,
    "SRFilter": _SuperResolution,
    "PidiFilter": _Pidi,
    "QRFilter": _Qr,
}
"""The official filters, which make a ControlNet's input of a picture, and what each of them takes."""


class ControlNetRun(StageCRun, AdapterRun):
    """A network that adds to Stage C's blocks what it makes of a hint."""

    fixed: ClassVar[frozenset[str]] = (
        StageCRun.fixed
        | _BASE
        | {
            *("controlnet_blocks", "controlnet_filter", "controlnet_filter_params", "controlnet_bottleneck_mode"),
        }
    )

    controlnet_blocks: Annotated[list[NonNegativeInt], Field(min_length=1)]
    controlnet_filter: Name
    controlnet_filter_params: dict[str, Any] | None = None
    controlnet_bottleneck_mode: Literal["effnet", "simple", "large"] | None = None  # effnet if not given
    controlnet_checkpoint_path: Path | None = None

    @property
    def filter_params(self) -> BaseModel:
        """What the filter takes, with its defaults. Raises `InputError` for a filter or a parameter that is none."""
        name = self.controlnet_filter
        if name not in FILTERS:
            raise InputError(f"controlnet_filter {name!r} is none of {', '.join(FILTERS)}.{suggest(name, FILTERS)}")
        params = FILTERS[name]
        try:
            return params.model_validate(self.controlnet_filter_params or {})
        except ValidationError as error:
            problem = error.errors()[0]
            key = str(problem["loc"][0])
            said = suggest(key, params.model_fields) if problem["type"] == "extra_forbidden" else ""
            raise InputError(
                f"controlnet_filter_params: {name} takes {', '.join(params.model_fields)}; {key!r}: "
                f"{problem['msg']} (got {problem['input']!r}).{said}"
            ) from None

    def check(self) -> None:
        from littlecascade.presets import find_preset

        super().check()
        _ = self.filter_params
        trunk = find_preset(self.model_version).stage_c.trunk
        count = sum(
            depth * layout.count("C")
            for depths, layouts in ((trunk.down_depths, trunk.layouts), (trunk.up_depths, trunk.layouts[::-1]))
            for depth, layout in zip(depths, layouts, strict=True)
        )
        outside = [block for block in self.controlnet_blocks if block >= count]
        if outside:
            raise InputError(
                f"controlnet_blocks: there is no block {outside[0]}; Stage C {self.model_version} has {count}, from 0 "
                f"to {count - 1}."
            )
        twice = [block for block in self.controlnet_blocks if self.controlnet_blocks.count(block) > 1]
        if twice:
            raise InputError(f"controlnet_blocks names block {twice[0]} twice.")
