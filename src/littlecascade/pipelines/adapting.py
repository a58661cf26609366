"""The adapters of one call of the cascade, put into each network for the time of its work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from littlecascade.adapters.files import Adapter, Content
from littlecascade.adapters.injection import Injection, Layer
from littlecascade.adapters.tokens import LearnedTokens, TokenInjection, new_ids
from littlecascade.checkpoint.networks import ROLES
from littlecascade.conditioning.clip import TextTower
from littlecascade.conditioning.text import TextEncoder
from littlecascade.conditioning.tokenizer import ClipTokenizer
from littlecascade.errors import InputError
from littlecascade.pipelines.model import Model
from littlecascade.presets import PRESETS

ADAPTED = ("stage_c", "stage_b", "text")
"""Roles of the networks that adapters change."""


@dataclass(frozen=True)
class Adapters:
    """Adapters and what is in them; none changes nothing."""

    contents: Sequence[tuple[Adapter, Content]] = ()

    @classmethod
    def read(cls, model: Model, adapters: Sequence[Adapter]) -> Adapters:
        """Read them for a model. Raises `InputError` for one that does not fit it, and tokens that two have."""
        if not adapters:
            return NONE
        networks = outlines(model)
        contents = [(adapter, _read(adapter, model, networks)) for adapter in adapters]
        for tokens in _tokens(contents):
            tokens.check(model.text().config.width)
        new_ids([tokens.new for tokens in _tokens(contents)], first=0)
        return cls(contents)

    @property
    def names(self) -> list[str]:
        """Of the new tokens that they bring."""
        return [name for tokens in _tokens(self.contents) for name in tokens.new]

    @property
    def recipe(self) -> dict[str, Any]:
        """What it takes to use them again."""
        return {"adapters": [adapter.recipe for adapter, _ in self.contents]} if self.contents else {}

    @contextmanager
    def on(self, role: str, network: nn.Module, device: torch.device) -> Iterator[Injection]:
        """Puts them beside a network's matrices; the injection's `watch` follows the steps."""
        layers: list[Layer] = []
        for adapter, content in self.contents:
            if role in content.deltas:
                layers.append(Layer(content.deltas[role].to(device), adapter.scale, adapter.steps))
        with Injection(network, layers) as injection:
            yield injection

    @contextmanager
    def on_words(self, text: TextEncoder) -> Iterator[TextEncoder]:
        """A text encoder that knows their tokens, with its tower changed. It has a cache of its own."""
        tokens, table = _tokens(self.contents), text.tower.text_model.embeddings.token_embedding.weight
        if not tokens and not any("text" in content.deltas for _, content in self.contents):
            yield text
            return
        for learned in tokens:
            learned.to(table.device).settle(text.tokenizer, table)
        with self.on("text", text.tower, table.device), TokenInjection(text.tower, tokens) as injection:
            tokenizer = text.tokenizer.extended(injection.names)
            yield TextEncoder(text.tower, tokenizer, tokens=text.tokens, mask_padding=text.mask_padding)


NONE = Adapters()


def outlines(model: Model) -> dict[str, nn.Module]:
    """The networks of a model that adapters change, without their weights."""
    return {role: outline(role, _config(model, role)) for role in ADAPTED if role in model.inventory.parts}


def preset_outlines(size: str) -> dict[str, nn.Module]:
    """Those of a named size."""
    return {role: outline(role, getattr(PRESETS[size], role)) for role in ADAPTED}


def fits(adapter: Adapter) -> list[tuple[str, str]]:
    """The named sizes and roles of the networks whose matrices an adapter changes; none for tokens alone."""
    found: list[tuple[str, str]] = []
    for size in PRESETS:
        try:
            found += [(size, role) for role in adapter.read_deltas(preset_outlines(size))]
        except InputError:
            continue
    return found


def _read(adapter: Adapter, model: Model, networks: Mapping[str, nn.Module]) -> Content:
    try:
        deltas = adapter.read_deltas(networks)
    except InputError as error:
        fitting = ", ".join(f"{role} of {size}" for size, role in fits(adapter))
        raise InputError(f"{error}{f' It fits {fitting}.' if fitting else ''}") from None
    return Content(deltas, adapter.read_tokens(lambda: ClipTokenizer.load(model.text().folder)))


def _tokens(contents: Sequence[tuple[Adapter, Content]]) -> list[LearnedTokens]:
    return [content.tokens for _, content in contents if content.tokens is not None]


def _config(model: Model, role: str) -> Any:
    return (model.text() if role == "text" else model.network(role)).config


def outline(role: str, config: Any) -> nn.Module:
    """A network of a role, on the meta device."""
    with torch.device("meta"):
        return TextTower(config) if role == "text" else ROLES[role].network(config)
