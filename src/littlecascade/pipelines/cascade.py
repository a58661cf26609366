"""The cascade: draw from words and pictures, and take pictures through their latents and back."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import torch
from PIL import Image
from torch import Tensor

from littlecascade import __version__
from littlecascade.adapters.files import Adapter
from littlecascade.checkpoint.formats.official import FILES
from littlecascade.conditioning.prompts import Prompt
from littlecascade.data.pictures import cover
from littlecascade.errors import InputError
from littlecascade.memory.placement import Machine, choose
from littlecascade.memory.precision import choose_device
from littlecascade.pipelines import decoder, prior
from littlecascade.pipelines.adapting import Adapters
from littlecascade.pipelines.components import Components
from littlecascade.pipelines.drawing import Order, decode_pictures, draw_pictures, encode_pictures
from littlecascade.pipelines.model import Model
from littlecascade.pipelines.pictures import Picture, as_list, open_sources
from littlecascade.pipelines.redraw import arguments_of, pictures_of
from littlecascade.pipelines.results import Result
from littlecascade.pipelines.sampling import DecoderOptions, Options, Plan, Start
from littlecascade.pipelines.session import OnPicture, Progress, Session
from littlecascade.pipelines.size import CHANNELS, Frame, Size, check_size, size_like
from littlecascade.recipe import Recipe

MAX_SEED = 2**63 - 1


class Cascade:
    """A model that is ready to draw. Make one with `Cascade.load`.

    Every verb returns a `Result`, whose recipes say what it takes to draw each picture again. All that draw take two
    functions: `callback` is called after each step (see `Progress`), `on_picture` with each picture as soon as it is
    finished (see `OnPicture`). Either may raise `StopDrawing`, and the verb returns what was finished by then.

    The verbs that draw from words (`generate`, `vary`, `edit`) share these arguments:
        prompt: one or several, each drawn `n` times. Words may be weighted, as in `a (red:1.3) apple`: see `Prompt`.
        seed: of the first picture, the others count up from it; drawn at random if not given. Picture k equals the
            picture drawn alone with seed + k, to rounding.
        size: (width, height) in pixels.
        negative: what guidance leads away from.
        adapters: LoRAs and learned tokens, for this call alone: see `Adapter.load`.
        background: of `vary` and `edit`, the colour behind transparent parts of a picture.
        options: how the stages sample, see `Options`; the model's own settings stand for what is not given.
    """

    def __init__(self, components: Components) -> None:
        self.components = components
        self.drawing = components.model.drawing

    @classmethod
    def load(
        cls, model: str = "tiny", *, device: str = "auto", precision: str = "auto", offload: str = "auto"
    ) -> Cascade:
        """Open a model, see `Model.find`; networks are read when they are needed.

        device: auto, cpu or cuda. precision: auto, float32, bfloat16, float16 or int8. offload: auto, none (all
        networks stay on the device), stage (one at a time) or block (one block at a time). What is left to `auto` is
        chosen by the memory that is free: see `components.placement`.
        """
        found = Model.find(model)
        parameters = {role: found.inventory.parts[role].parameters for role in FILES if role in found.inventory.parts}
        machine = Machine.of(choose_device(device))
        placement = choose(machine, parameters, found.drawing.image_size, precision=precision, offload=offload)
        return cls(Components(found, placement))

    @torch.no_grad()
    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        n: int = 1,
        seed: int | None = None,
        size: Size | None = None,
        negative: str = "",
        adapters: Sequence[Adapter] = (),
        callback: Progress | None = None,
        on_picture: OnPicture | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Draw `n` pictures of each prompt."""
        order = self._order("generate", prompt, n, seed, size, negative, adapters, options)
        return draw_pictures(self.components, Session(self.components, callback, on_picture), order)

    @torch.no_grad()
    def vary(
        self,
        images: Picture | Sequence[Picture],
        prompt: str | Sequence[str] = "",
        *,
        weights: Sequence[float] | None = None,
        background: str = "white",
        n: int = 1,
        seed: int | None = None,
        size: Size | None = None,
        negative: str = "",
        adapters: Sequence[Adapter] = (),
        callback: Progress | None = None,
        on_picture: OnPicture | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Draw new pictures of what `images` show, or of a mixture of several, with or without words.

        weights: how much each image counts, in proportion; negative ones lead away from an image.
        """
        sources = open_sources(images, background)
        weights = prior.check_weights(weights, len(sources))
        facts = {"sources": [source.recipe for source in sources], "weights": weights, "background": background}
        order = self._order("vary", prompt, n, seed, size, negative, adapters, options, **facts)
        session = Session(self.components, callback, on_picture)
        image = prior.embed_pictures(self.components, session, sources, weights)
        return draw_pictures(self.components, session, order, image=image)

    @torch.no_grad()
    def edit(
        self,
        image: Picture,
        prompt: str | Sequence[str],
        *,
        strength: float = 0.7,
        background: str = "white",
        n: int = 1,
        seed: int | None = None,
        size: Size | None = None,
        negative: str = "",
        adapters: Sequence[Adapter] = (),
        callback: Progress | None = None,
        on_picture: OnPicture | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Draw a picture anew from its latents, `strength` of the way back from noise.

        strength: above 0, which returns the picture almost as it was, to 1, as noisy as a fresh drawing. Stage C takes
        that share of its steps, rounded up. Without a size the result has the picture's shape and the area that the
        model draws best; a picture of another shape than `size` is cropped to it.
        """
        if not 0 < strength <= 1:
            raise InputError(f"Strength {strength}: it lies above 0 (the same picture) and up to 1 (a new one).")
        source = open_sources(image, background)[0]
        size = size or size_like(source.image.size, self.drawing.image_size)
        facts = {"sources": [source.recipe], "strength": strength, "background": background}
        order = self._order("edit", prompt, n, seed, size, negative, adapters, options, **facts)
        session = Session(self.components, callback, on_picture)
        latents = decoder.encode(self.components, session, [cover(source.image, *size)], order.frame)
        return draw_pictures(self.components, session, order, start=Start(latents, strength))

    @torch.no_grad()
    def reconstruct(
        self,
        images: Picture | Sequence[Picture],
        *,
        seed: int = 0,
        size: Size | None = None,
        background: str = "white",
        callback: Progress | None = None,
        on_picture: OnPicture | None = None,
        **options: Unpack[DecoderOptions],
    ) -> Result:
        """Pictures through the compressor and back, with what that lost: `Result.originals` and `Result.metrics`.

        Without a size they are brought to the area that the model draws best, and must have one shape; with a size they
        are cropped to its shape.
        """
        self.components.model.require("reconstruct")
        if size is not None:
            self._check_size(size)
        originals, frame, facts = self._prepare(
            images, background, lambda own: size or size_like(own, self.drawing.image_size)
        )
        plan = Plan.of(self.drawing, options)
        common = self._recipe("reconstruct", frame) | plan.decoder_options()
        seeds = _seeds(seed, len(facts))
        recipes = [common | fact | {"seed": own} for fact, own in zip(facts, seeds, strict=True)]
        session = Session(self.components, callback, on_picture)

        def latents(batch: slice) -> Tensor:
            return decoder.encode(self.components, session, originals[batch], frame)

        return decode_pictures(self.components, session, latents, frame, plan.decoder, recipes, originals)

    @torch.no_grad()
    def encode(
        self, images: Picture | Sequence[Picture], *, size: Size | None = None, background: str = "white"
    ) -> Result:
        """Pictures to the latents that Stage C would draw for their size, (N, 16, h, w).

        They must have one size, or are resized and cropped to `size`.
        """
        session = Session(self.components)
        originals, frame, facts = self._prepare(images, background, lambda own: size or own)
        recipes = [self._recipe("encode", frame) | fact for fact in facts]
        return encode_pictures(self.components, session, originals, frame, recipes)

    @torch.no_grad()
    def decode(
        self,
        latents: Tensor,
        *,
        seed: int = 0,
        size: Size | None = None,
        callback: Progress | None = None,
        on_picture: OnPicture | None = None,
        **options: Unpack[DecoderOptions],
    ) -> Result:
        """Latents (N, 16, h, w) to pictures, by Stage B and Stage A.

        Without a size a picture shows all that its latents cover when drawing. Where a size asks for another number of
        latents, these are stretched over it.
        """
        if latents.ndim != 4 or latents.shape[1] != CHANNELS:
            raise InputError(f"Latents are (N, {CHANNELS}, h, w), not {tuple(latents.shape)}.")
        frame = Frame.around((latents.shape[2], latents.shape[3]), size, self.drawing.compression)
        plan = Plan.of(self.drawing, options)
        common = self._recipe("decode", frame) | plan.decoder_options()
        recipes = [common | {"seed": own} for own in _seeds(seed, len(latents))]
        session = Session(self.components, callback, on_picture)
        return decode_pictures(self.components, session, lambda batch: latents[batch], frame, plan.decoder, recipes)

    def redraw(self, recipe: Recipe, images: Picture | Sequence[Picture] | None = None, **changes: Any) -> Result:
        """Draw a picture again from its recipe; any argument of the verb that drew it overrules the recipe's.

        images: what it started from, if that is no longer where it was.
        """
        task, arguments = arguments_of(recipe)
        arguments |= changes
        if task == "generate":
            return self.generate(**arguments)
        pictures = pictures_of(recipe) if images is None else as_list(images)
        match task:
            case "vary":
                return self.vary(pictures, **arguments)
            case "edit":
                return self.edit(pictures[0], **arguments)
            case _:
                return self.reconstruct(pictures, **arguments)

    def _order(
        self,
        task: str,
        prompt: str | Sequence[str],
        n: int,
        seed: int | None,
        size: Size | None,
        negative: str,
        adapters: Sequence[Adapter],
        options: Mapping[str, Any],
        **facts: Any,
    ) -> Order:
        """Everything that can be wrong with what was asked for is found here, before a network is read."""
        self.components.model.require(task)
        stack = Adapters.read(self.components.model, adapters)
        texts = [prompt] if isinstance(prompt, str) else prompt
        prompts = [Prompt.parse(text, stack.names) for text in texts for _ in range(n)]
        if not prompts:
            raise InputError("Nothing to draw: there is no prompt, or n is 0.")
        size = self._check_size(size or (self.drawing.image_size, self.drawing.image_size))
        frame = Frame.of(size, self.drawing.compression)
        plan = Plan.of(self.drawing, options)
        seeds = _seeds(secrets.randbelow(2**32) if seed is None else seed, len(prompts))
        recipe = self._recipe(task, frame) | {"negative": negative} | plan.recipe() | facts
        return Order(prompts, Prompt.parse(negative, stack.names), seeds, frame, plan, recipe | stack.recipe, stack)

    def _prepare(
        self, images: Picture | Sequence[Picture], background: str, size_of: Callable[[Size], Size]
    ) -> tuple[list[Image.Image], Frame, list[Recipe]]:
        """Pictures brought to one size, its frame, and what recipes say of each. size_of: the size that one gets."""
        sources = open_sources(images, background)
        sizes = {size_of(source.image.size) for source in sources}
        if len(sizes) > 1:
            found = ", ".join(f"{width}x{height}" for width, height in sorted(sizes))
            raise InputError(f"These pictures have several sizes ({found}): give a size, or take them one at a time.")
        (size,) = sizes
        frame = Frame.of(size, self.drawing.compression)
        facts = [{"sources": [source.recipe], "background": background} for source in sources]
        return [cover(source.image, *size) for source in sources], frame, facts

    def _check_size(self, size: Size) -> Size:
        return check_size(size, self.drawing.image_size, self.components.model.name)

    def _recipe(self, task: str, frame: Frame) -> Recipe:
        """What the recipes of all tasks say."""
        return {
            "littlecascade": __version__,
            "task": task,
            "model": self.components.model.name,
            "model_digest": self.components.model.digest,
            "precision": self.components.placement.precision,
            "size": list(frame.size),
        }


def _seeds(seed: int, count: int) -> list[int]:
    """Seeds of `count` pictures. Raises `InputError` for numbers that are none."""
    if not 0 <= seed <= MAX_SEED - count:
        raise InputError(f"Seed {seed} is out of range: whole numbers from 0 to {MAX_SEED - count}.")
    return list(range(seed, seed + count))
