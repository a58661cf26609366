"""Prompts and pictures to semantic latents: the text encoder, the image encoder and Stage C."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from littlecascade.conditioning.prompts import Prompt
from littlecascade.conditioning.text import TextEmbedding
from littlecascade.data.order import derive_seed
from littlecascade.data.pixels import to_tensor
from littlecascade.errors import InputError
from littlecascade.pipelines.adapting import NONE, Adapters
from littlecascade.pipelines.components import Components
from littlecascade.pipelines.pictures import Source, middle
from littlecascade.pipelines.sampling import Settings, Start, draw
from littlecascade.pipelines.session import Session
from littlecascade.pipelines.size import Frame


class Words(NamedTuple):
    """What the stages read of some prompts (B rows), and of the negative one (1 row) that goes with each.

    numbers: the prompts' places in what was asked for.
    """

    numbers: list[int]
    prompts: TextEmbedding
    negative: TextEmbedding

    def batches(self, size: int) -> list[Words]:
        """At most `size` prompts at a time."""
        return [
            Words(
                self.numbers[start : start + size],
                TextEmbedding(*(rows[start : start + size] for rows in self.prompts)),
                self.negative,
            )
            for start in range(0, len(self.numbers), size)
        ]


def embed_words(
    components: Components,
    session: Session,
    prompts: Sequence[Prompt],
    negative: Prompt,
    adapters: Adapters = NONE,
) -> list[Words]:
    """Prompts in groups that need the same number of chunks of text, so that none depends on its neighbours."""
    with session.part("load"):
        encoder = components.text
    with session.part("text"), adapters.on_words(encoder) as text:
        least = text.chunks(negative)
        needs = [max(text.chunks(prompt), least) for prompt in prompts]
        groups: list[Words] = []
        for chunks in sorted(set(needs)):
            numbers = [number for number, need in enumerate(needs) if need == chunks]
            own = text.encode([prompts[number] for number in numbers], chunks)
            groups.append(Words(numbers, own, text.encode([negative], chunks)))
        return groups


def check_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    """The weights of so many pictures, 1 each unless told otherwise. Raises `InputError` if they have no mean."""
    if weights is None:
        return [1.0] * count
    if len(weights) != count:
        raise InputError(f"{len(weights)} weights for {count} pictures: give one for each.")
    if not all(map(math.isfinite, weights)) or sum(weights) <= 0:
        raise InputError(f"Weights {list(weights)}: they must be finite numbers whose sum is above 0.")
    return [float(weight) for weight in weights]


def embed_pictures(
    components: Components, session: Session, sources: Sequence[Source], weights: Sequence[float]
) -> Tensor:
    """The weighted mean (1, 1, P) of the pictures' embeddings."""
    with session.part("load"):
        encoder = components.image
    with session.part("image"):
        embeddings = [encoder.encode(to_tensor(middle(source.image))[None]).float() for source in sources]
        weighted = [weight * embedding for weight, embedding in zip(weights, embeddings, strict=True)]
        return torch.stack(weighted).sum(0) / sum(weights)


def draw_latents(
    components: Components,
    session: Session,
    words: Words,
    image: Tensor | None,
    seeds: Sequence[int],
    frame: Frame,
    settings: Settings,
    start: Start | None = None,
    adapters: Adapters = NONE,
) -> Tensor:
    """Stage C: latents (B, 16, h, w) for some prompts and the embedding (1, 1, P) of a picture, if there is one."""
    with session.part("load"):
        stage_c = components.stage_c
    with session.part("stage_c"), adapters.on("stage_c", stage_c, components.device) as injection:
        rows = len(words.numbers)
        picture = None if image is None else image.expand(rows, -1, -1)
        conditions = stage_c.encode_conditions(words.prompts.hidden, words.prompts.pooled, picture)
        against = None
        if settings.guidance != 1:
            against = stage_c.encode_conditions(words.negative.hidden, words.negative.pooled)
        shape = (rows, stage_c.config.trunk.in_channels, *frame.latents)
        own = [derive_seed(seed, 0) for seed in seeds]
        parametrisation = components.parametrisation("stage_c")
        watch = injection.watch(session.watch("c"))
        latents = draw(stage_c, shape, conditions, against, parametrisation, settings, own, watch, start)
        return check_finite(latents, "Stage C", components)


def check_finite(latents: Tensor, stage: str, components: Components) -> Tensor:
    """The latents that a stage drew. Raises `InputError` if they are none."""
    if latents.isfinite().all():
        return latents
    raise InputError(
        f"{stage} of {components.model.name!r} gave numbers that are none in {components.placement.precision}. "
        "Its weights are damaged, or need another --precision: bfloat16 or float32."
    )
