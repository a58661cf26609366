"""From a settled order to finished pictures, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image
from torch import Tensor

from littlecascade.conditioning.prompts import Prompt
from littlecascade.data.pixels import to_image
from littlecascade.pipelines import decoder, prior
from littlecascade.pipelines.adapting import NONE, Adapters
from littlecascade.pipelines.components import Components
from littlecascade.pipelines.results import Result
from littlecascade.pipelines.sampling import Plan, Settings, Start
from littlecascade.pipelines.session import Session
from littlecascade.pipelines.size import Frame
from littlecascade.recipe import Recipe

Batch = TypeVar("Batch")

BATCH = 8
BATCH_PIXELS = 2 * 1024**2
"""How many pictures are drawn at a time, and how many pixels they may have together if they are more than one."""


@dataclass(frozen=True)
class Order:
    """What one call draws from words: a prompt and a seed for each picture, and what all of them share."""

    prompts: Sequence[Prompt]
    negative: Prompt
    seeds: Sequence[int]
    frame: Frame
    plan: Plan
    recipe: Recipe
    adapters: Adapters = NONE

    def recipe_of(self, number: int) -> Recipe:
        """What it takes to draw one of the pictures alone."""
        return {"prompt": self.prompts[number].source, "seed": self.seeds[number]} | self.recipe


def draw_pictures(
    components: Components, session: Session, order: Order, *, image: Tensor | None = None, start: Start | None = None
) -> Result:
    """All pictures of an order. image: the embedding (1, 1, P) of a picture to follow; start: latents to start from."""
    with session:
        groups = prior.embed_words(components, session, order.prompts, order.negative, order.adapters)
        batches = [batch for group in groups for batch in group.batches(batch_size(order.frame))]
        for turn in _turns(components, batches):
            seeds = [[order.seeds[number] for number in words.numbers] for words in turn]
            latents = [
                prior.draw_latents(
                    components, session, words, image, own, order.frame, order.plan.prior, start, order.adapters
                )
                for words, own in zip(turn, seeds, strict=True)
            ]
            fine = [
                decoder.draw_fine(
                    components, session, given, own, order.frame, order.plan.decoder, words, order.adapters
                )
                for words, own, given in zip(turn, seeds, latents, strict=True)
            ]
            for words, given, finer in zip(turn, latents, fine, strict=True):
                pixels = decoder.to_pixels(components, session, finer, order.frame)
                for number, picture, latent in zip(words.numbers, pixels, given, strict=True):
                    session.finish(number, to_image(picture), latent, order.recipe_of(number))
    return session.result(order.frame)


def decode_pictures(
    components: Components,
    session: Session,
    latents: Callable[[slice], Tensor],
    frame: Frame,
    settings: Settings,
    recipes: Sequence[Recipe],
    originals: Sequence[Image.Image] = (),
) -> Result:
    """A picture of the frame's size for each recipe, from what `latents` gives for some of them.

    originals: the pictures that the latents are of, if they are of any.
    """
    with session:
        for turn in _turns(components, batches(len(recipes), frame)):
            given = [latents(batch) for batch in turn]
            seeds = [[recipe["seed"] for recipe in recipes[batch]] for batch in turn]
            fine = [
                decoder.draw_fine(components, session, coarse, own, frame, settings)
                for coarse, own in zip(given, seeds, strict=True)
            ]
            for batch, coarse, finer in zip(turn, given, fine, strict=True):
                pixels = decoder.to_pixels(components, session, finer, frame)
                for number, picture, latent in zip(range(len(recipes))[batch], pixels, coarse, strict=True):
                    original = originals[number] if originals else None
                    session.finish(number, to_image(picture), latent, recipes[number], original)
    return session.result(frame)


def encode_pictures(
    components: Components, session: Session, images: Sequence[Image.Image], frame: Frame, recipes: Sequence[Recipe]
) -> Result:
    """The latents of pictures of the frame's size, with the pictures themselves."""
    with session:
        for batch in batches(len(images), frame):
            latents = decoder.encode(components, session, images[batch], frame)
            for number, latent in zip(range(len(images))[batch], latents, strict=True):
                session.finish(number, images[number], latent, recipes[number])
    return session.result(frame)


def batch_size(frame: Frame) -> int:
    """How many pictures are drawn at a time."""
    return min(BATCH, max(1, BATCH_PIXELS // (frame.drawn[0] * frame.drawn[1])))


def batches(count: int, frame: Frame) -> list[slice]:
    """Which of `count` pictures are drawn at a time."""
    size = batch_size(frame)
    return [slice(start, start + size) for start in range(0, count, size)]


def _turns(components: Components, batches: Sequence[Batch]) -> list[Sequence[Batch]]:
    """Batches that go through every stage before the next ones do.

    Where all networks stay that is one at a time, so that its pictures come early; where one makes room for the next,
    it is all of them, so that each is read once.
    """
    return [[batch] for batch in batches] if components.placement.offload == "none" else [batches]
