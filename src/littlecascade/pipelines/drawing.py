"""From a settled order to finished pictures, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from littlecascade.conditioning.prompts import Prompt
from littlecascade.data.pixels import to_image
from littlecascade.pipelines import decoder, prior
from littlecascade.pipelines.components import Components
from littlecascade.pipelines.results import Result
from littlecascade.pipelines.sampling import Plan, Settings, Start
from littlecascade.pipelines.session import Session
from littlecascade.pipelines.size import Frame
from littlecascade.recipe import Recipe

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

    def recipe_of(self, number: int) -> Recipe:
        """What it takes to draw one of the pictures alone."""
        return {"prompt": self.prompts[number].source, "seed": self.seeds[number]} | self.recipe


def draw_pictures(
    components: Components, session: Session, order: Order, *, image: Tensor | None = None, start: Start | None = None
) -> Result:
    """All pictures of an order. image: the embedding (1, 1, P) of a picture to follow; start: latents to start from."""
    with session:
        groups = prior.embed_words(components, session, order.prompts, order.negative)
        for words in (batch for group in groups for batch in group.batches(batch_size(order.frame))):
            seeds = [order.seeds[number] for number in words.numbers]
            latents = prior.draw_latents(components, session, words, image, seeds, order.frame, order.plan.prior, start)
            pooled = words.prompts.pooled, words.negative.pooled
            pixels = decoder.decode(components, session, latents, seeds, order.frame, order.plan.decoder, *pooled)
            for number, picture, latent in zip(words.numbers, pixels, latents, strict=True):
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
        for batch in batches(len(recipes), frame):
            seeds = [recipe["seed"] for recipe in recipes[batch]]
            given = latents(batch)
            pixels = decoder.decode(components, session, given, seeds, frame, settings)
            for number, picture, latent in zip(range(len(recipes))[batch], pixels, given, strict=True):
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


def batches(count: int, frame: Frame) -> Iterator[slice]:
    """Which of `count` pictures are drawn at a time."""
    size = batch_size(frame)
    return (slice(start, start + size) for start in range(0, count, size))
