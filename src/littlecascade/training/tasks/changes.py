"""Changes of a network that a run trains beside it: what LoRA tasks of every network have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from littlecascade.adapters import files
from littlecascade.adapters.deltas import Delta, LoRA
from littlecascade.adapters.injection import Deltas, Injection, Layer
from littlecascade.adapters.parts import fused
from littlecascade.adapters.tokens import LearnedTokens
from littlecascade.conditioning.tokenizer import ClipTokenizer
from littlecascade.data.order import derive_seed
from littlecascade.errors import InputError
from littlecascade.training.config_adapters import LoraBRun, LoraRun

AnyLoraRun = LoraRun | LoraBRun


class Changes:
    """New changes that change nothing yet, or those of `lora_checkpoint_path`, at work beside a frozen network.

    role: stage_c, stage_b or text. Raises `InputError` for filters that match nothing.
    """

    def __init__(self, role: str, network: nn.Module, filters: Sequence[str], config: AnyLoraRun) -> None:
        self.role, self.network = role, network
        self.deltas = Deltas.create(
            network,
            filters,
            kind=config.lora_type,
            rank=config.rank,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            generator=torch.Generator().manual_seed(derive_seed(config.seed, *_SEEDS[role])),
        )
        self.injection = Injection(network, [Layer(self.deltas)])

    def begin_as(self, stored: Deltas | None, config: AnyLoraRun) -> None:
        """Take the place of the changes in `lora_checkpoint_path`. Raises `InputError` for others than these here."""
        kept = {} if stored is None else {name: fused(delta) for name, delta in stored.by_site.items()}
        shapes, own = ({name: _outline(delta) for name, delta in one.items()} for one in (kept, self.deltas.by_site))
        if shapes != own:
            raise InputError(
                f"{config.lora_checkpoint_path} is no LoRA to go on from here: its modules, rank or kind are other "
                "than module_filters, rank and lora_type say. 'littlecascade lora show' says what it has."
            )
        for delta in kept.values():
            delta.dropout = config.lora_dropout
            if isinstance(delta, LoRA):
                _rescale(delta, config.lora_alpha)
        self.injection.remove()
        self.deltas = Deltas(kept).to(next(self.deltas.parameters()).device, torch.float32)
        self.injection = Injection(self.network, [Layer(self.deltas)])


@torch.no_grad()
def _rescale(delta: LoRA, alpha: float) -> None:
    """Give the same change another alpha, as formats that have no place for alpha keep it in the factors."""
    before, delta.given_alpha = delta.scale, alpha
    delta.up.data = delta.up.float() * (before / delta.scale)


_SEEDS = {"stage_c": b"lora", "stage_b": b"lora", "text": b"text"}


def go_on(changes: Sequence[Changes], config: AnyLoraRun) -> None:
    """Have changes begin as those of `lora_checkpoint_path`, if it is given. Raises `InputError` if they can't."""
    if config.lora_checkpoint_path is not None:
        stored = files.Adapter.load(config.lora_checkpoint_path).read_deltas({one.role: one.network for one in changes})
        for one in changes:
            one.begin_as(stored.get(one.role), config)


def _outline(delta: Delta) -> tuple[str, tuple[int, int], int]:
    """What two changes of a matrix share of which one can go on where the other ended."""
    return delta.kind, delta.shape, delta.rank


@contextmanager
def paused(changes: Sequence[Changes]) -> Iterator[None]:
    """Within: networks are as they are without changes."""
    with ExitStack() as stack:
        for one in changes:
            stack.enter_context(one.injection.paused())
        yield


def compared(draw: Callable[[], Image.Image | None], changes: Sequence[Changes]) -> Image.Image | None:
    """What is drawn without any changes, above what is drawn with them."""
    with paused(changes):
        before = draw()
    after = draw()
    if before is None or after is None:
        return None
    sheet = Image.new("RGB", (after.width, before.height + after.height), "white")
    sheet.paste(before, (0, 0))
    sheet.paste(after, (0, before.height))
    return sheet


def write(
    folder: Path,
    config: AnyLoraRun,
    changes: Sequence[Changes],
    words: tuple[LearnedTokens, ClipTokenizer] | None = None,
) -> None:
    """Write the file in the official format, or, where that has no place for all of it, in ComfyUI's."""
    tokens, tokenizer = (None, None) if words is None else words
    content = files.Content({one.role: one.deltas for one in changes}, tokens)
    path = folder / f"{config.experiment_id}.safetensors"
    networks = {one.role: one.network for one in changes}
    files.save(path, config.form, content, networks, tokenizer, dtype=torch.float16)
