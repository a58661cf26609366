"""CLIP's text and vision towers (Radford et al. 2021, arXiv:2103.00020), with the parameter names of transformers.

Both towers are pre-norm transformers whose output at one token, the end of the text or the class token, is
normalised and projected without bias into the space that text and pictures share. Their state dicts are those of
`CLIPTextModelWithProjection` and `CLIPVisionModelWithProjection` (`pre_layrnorm` is spelt as it is there), so that
published weights are assigned as they lie in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from littlecascade.errors import InputError, suggest

LEGACY_EOS = 2  # configurations written before transformers 4.31 name this id; the true one is the largest of the text


def quick_gelu(x: Tensor) -> Tensor:
    """The sigmoid approximation of GELU that OpenAI's CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": F.gelu}


@dataclass(frozen=True)
class TowerConfig:
    """What both towers have: `depth` layers of `width` channels and `heads` heads, and the size of the projection.

    `intermediate` is the inner width of the feed-forward blocks; 0 stands for four times the width.
    """

    width: int
    depth: int
    heads: int
    projection: int
    activation: str = "quick_gelu"
    intermediate: int = 0
    eps: float = 1e-5

    _part: ClassVar[str]
    _model_type: ClassVar[str]
    _architecture: ClassVar[str]
    _names: ClassVar[dict[str, str]] = {
        "width": "hidden_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "projection": "projection_dim",
        "activation": "hidden_act",
        "intermediate": "intermediate_size",
        "eps": "layer_norm_eps",
    }
    _defaults: ClassVar[dict[str, Any]] = {}

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise InputError(
                f"{self.activation!r} is no activation of a CLIP tower; there are {', '.join(ACTIVATIONS)}."
                f"{suggest(self.activation, ACTIVATIONS)}"
            )
        if self.width % self.heads:
            raise InputError(f"A CLIP tower of width {self.width} can't be split into {self.heads} heads.")
        if not self.intermediate:
            object.__setattr__(self, "intermediate", 4 * self.width)

    @classmethod
    def from_transformers(cls, config: Mapping[str, Any]) -> Self:
        """Reads what transformers stores in config.json, of this tower alone or of a whole CLIP model.

        What the file leaves out has transformers' default. In the file of a whole model its own `projection_dim`
        counts, since the towers' (which some published files carry with a wrong value) are not used there.
        """
        tower = dict(config.get(cls._part) or {}) | dict(config.get(f"{cls._part}_dict") or {})
        if not tower:
            if "hidden_size" not in config:
                raise InputError(
                    f"This config.json has neither `{cls._part}` nor `hidden_size`: it describes no CLIP tower "
                    f"(its model_type is {config.get('model_type')!r}). Give the folder of a CLIP model."
                )
            tower = dict(config)
        elif "projection_dim" in config:
            tower["projection_dim"] = config["projection_dim"]
        values = cls._defaults | {name: tower[key] for name, key in cls._names.items() if tower.get(key) is not None}
        return cls(**values)

    def to_transformers(self) -> dict[str, Any]:
        """The config.json from which transformers builds the same tower."""
        values = {self._names[field.name]: getattr(self, field.name) for field in fields(self)}
        return {"architectures": [self._architecture], "model_type": self._model_type} | values


@dataclass(frozen=True)
class TextConfig(TowerConfig):
    """A text tower. `positions` is the number of tokens that one run of it reads, padding included.

    `eos_token_id` is the token at which the text is pooled, at its first occurrence; -1 stands for the last id of the
    vocabulary, and 2 (as in old files) for the largest id that occurs in the text.
    """

    vocab_size: int = 49408
    positions: int = 77
    eos_token_id: int = -1

    _part = "text_config"
    _model_type = "clip_text_model"
    _architecture = "CLIPTextModelWithProjection"
    _names: ClassVar[dict[str, str]] = TowerConfig._names | {
        "vocab_size": "vocab_size",
        "positions": "max_position_embeddings",
        "eos_token_id": "eos_token_id",
    }
    _defaults: ClassVar[dict[str, Any]] = {
        "width": 512,
        "depth": 12,
        "heads": 8,
        "projection": 512,
        "intermediate": 2048,
        "eos_token_id": 49407,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eos_token_id == -1:
            object.__setattr__(self, "eos_token_id", self.vocab_size - 1)

    def to_transformers(self) -> dict[str, Any]:
        """The config.json from which transformers builds the same tower; CLIP's first special id precedes the last."""
        return super().to_transformers() | {"bos_token_id": self.vocab_size - 2, "pad_token_id": self.eos_token_id}


@dataclass(frozen=True)
class VisionConfig(TowerConfig):
    """A vision tower over square pictures of `image_size` pixels, cut into patches of `patch` pixels."""

    image_size: int = 224
    patch: int = 14
    channels: int = 3

    _part = "vision_config"
    _model_type = "clip_vision_model"
    _architecture = "CLIPVisionModelWithProjection"
    _names: ClassVar[dict[str, str]] = TowerConfig._names | {
        "image_size": "image_size",
        "patch": "patch_size",
        "channels": "num_channels",
    }
    _defaults: ClassVar[dict[str, Any]] = {
        "width": 768,
        "depth": 12,
        "heads": 12,
        "projection": 512,
        "intermediate": 3072,
        "patch": 32,
    }

    @property
    def positions(self) -> int:
        """Number of tokens: one class token and the patches."""
        return 1 + (self.image_size // self.patch) ** 2


def _draw(tensor: Tensor, std: float) -> None:
    """Fills a tensor from a normal distribution; on the meta device, where torch would first import its compiler for
    seconds, it does nothing."""
    if not tensor.is_meta:
        nn.init.normal_(tensor, std=std)


def _embedding(count: int, width: int, std: float) -> nn.Embedding:
    """A table of `count` vectors. The constructor would draw them itself, on the meta device too."""
    table = nn.Embedding.from_pretrained(torch.empty(count, width), freeze=False)
    _draw(table.weight, std)
    return table


class Attention(nn.Module):
    """Self-attention over `(B, T, width)`."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.k_proj = nn.Linear(config.width, config.width)
        self.v_proj = nn.Linear(config.width, config.width)
        self.q_proj = nn.Linear(config.width, config.width)
        self.out_proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """`mask` is True where a query may look, broadcastable to `(B, heads, T, T)`; `causal` needs no mask."""
        q, k, v = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return self.out_proj(x.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers with the tower's activation between them."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.fc1 = nn.Linear(config.width, config.intermediate)
        self.fc2 = nn.Linear(config.intermediate, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class Layer(nn.Module):
    """One pre-norm transformer layer."""

    streams = True  # its weights may be brought in for the time of its call

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.layer_norm1 = nn.LayerNorm(config.width, config.eps)
        self.mlp = FeedForward(config)
        self.layer_norm2 = nn.LayerNorm(config.width, config.eps)

    def forward(self, x: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), mask, causal)
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    """The stack of layers, started as CLIP does: residual branches shrink with the depth."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))
        into_stream = (2 * config.width * config.depth) ** -0.5
        for name, parameter in self.named_parameters():
            if name.endswith("_proj.weight"):
                _draw(parameter, std=config.width**-0.5 if "out_proj" not in name else into_stream)
            elif name.endswith("fc1.weight"):
                _draw(parameter, std=(2 * config.width) ** -0.5)
            elif name.endswith("fc2.weight"):
                _draw(parameter, std=into_stream)
            elif name.endswith(("_proj.bias", "fc1.bias", "fc2.bias")):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask, causal)
        return x


class TextEmbeddings(nn.Module):
    """Token plus position."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.token_embedding = _embedding(config.vocab_size, config.width, std=0.02)
        self.position_embedding = _embedding(config.positions, config.width, std=0.01)

    def forward(self, ids: Tensor) -> Tensor:
        positions = self.position_embedding.weight
        if ids.shape[1] > len(positions):
            raise InputError(
                f"A text of {ids.shape[1]} tokens is over the {len(positions)} positions of this text tower. "
                "Split it into chunks, as TextEncoder does."
            )
        return self.token_embedding(ids) + positions[: ids.shape[1]]


class TextModel(nn.Module):
    """The text tower before its projection."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        self.encoder = Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.width, config.eps)


class TextOutput(NamedTuple):
    """`hidden` `(B, T, width)`: the last layer's output, before the final norm. `pooled` `(B, projection)`."""

    hidden: Tensor
    pooled: Tensor


class TextTower(nn.Module):
    """Token ids to hidden states and one projected vector."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = TextModel(config)
        self.text_projection = nn.Linear(config.width, config.projection, bias=False)
        _draw(self.text_projection.weight, std=config.width**-0.5)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> TextOutput:
        """Reads `ids` `(B, T)`, padded on the right.

        `mask` `(B, T)` is True at tokens and False at padding. A token looks only at those before it, so the mask
        changes nothing but the hidden states of the padding itself: left out, padding also sees padding.
        `hidden` is what transformers calls `hidden_states[-1]`, and `pooled` its `text_embeds`.
        """
        allowed = None
        if mask is not None:
            causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()
            allowed = causal & mask.bool()[:, None, None, :]
        hidden = self.text_model.encoder(self.text_model.embeddings(ids), allowed, causal=allowed is None)
        end = hidden[torch.arange(len(ids), device=ids.device), self._end(ids)]
        return TextOutput(hidden, self.text_projection(self.text_model.final_layer_norm(end)))

    def _end(self, ids: Tensor) -> Tensor:
        """Index `(B,)` of the token that stands for the whole text: none of the learned ones, whose ids are higher."""
        eos = self.config.eos_token_id
        ids = ids.where(ids < self.config.vocab_size, -1)
        return (ids if eos == LEGACY_EOS else (ids == eos).int()).argmax(dim=-1)


class VisionEmbeddings(nn.Module):
    """A class token and the patches, plus position."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.size = config.image_size
        self.class_embedding = nn.Parameter(torch.empty(config.width))
        self.patch_embedding = nn.Conv2d(config.channels, config.width, config.patch, config.patch, bias=False)
        self.position_embedding = _embedding(config.positions, config.width, std=0.02)
        _draw(self.class_embedding, std=config.width**-0.5)
        _draw(self.patch_embedding.weight, std=0.02)

    def forward(self, pixels: Tensor) -> Tensor:
        if pixels.shape[-2:] != (self.size, self.size):
            raise InputError(
                f"Pictures of {pixels.shape[-1]} x {pixels.shape[-2]} pixels do not fit this vision tower, which reads "
                f"{self.size} x {self.size}. ImageEncoder resizes and crops them."
            )
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(pixels), 1, -1)
        return torch.cat((first, patches), dim=1) + self.position_embedding.weight


class VisionModel(nn.Module):
    """The vision tower before its projection."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.width, config.eps)
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.width, config.eps)


class VisionTower(nn.Module):
    """Normalised pictures to one projected vector each."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_model = VisionModel(config)
        self.visual_projection = nn.Linear(config.width, config.projection, bias=False)
        _draw(self.visual_projection.weight, std=config.width**-0.5)

    def forward(self, pixels: Tensor) -> Tensor:
        """`(B, 3, image_size, image_size)`, normalised with CLIP's mean and deviation, to `(B, projection)`."""
        model = self.vision_model
        x = model.encoder(model.pre_layrnorm(model.embeddings(pixels)))
        return self.visual_projection(model.post_layernorm(x[:, 0]))
